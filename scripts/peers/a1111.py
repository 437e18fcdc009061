"""The A1111 web UI's own reading of prompts, over a bundle's text encoder."""

import ast
import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lab.models.bundle import Bundle, TextTower
from scripts.peers.mocks import Chunks, Token, import_module, package

HASH_SEEDS = range(24)

_START = """
import importlib.util, json, sys
from unittest.mock import MagicMock
sys.modules["torch"] = MagicMock()
spec = importlib.util.spec_from_file_location("prompt_parser", sys.argv[1])
parser = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parser)
for line in sys.stdin:
    print(json.dumps(parser.get_learned_conditioning_prompt_schedules(*json.loads(line))), flush=True)
"""


Encoded = list[tuple[list[float], Tensor, Tensor | None]]
"""At each call of the U-Net the weights of the parts, what they were encoded to (parts, n, width), and for SDXL their
pooled vectors (parts, p)."""


class A1111:
    """The web UI's reading of prompts, with embeddings that answer to their bare names."""

    REAL = (
        "prompt_parser",
        "processing_scripts.comments",
        "sd_emphasis",
        "sd_hijack_clip",
        "textual_inversion.textual_inversion",
    )

    def __init__(self, folder: Path, bundle: Bundle, embeddings: Mapping[str, Mapping[str, Tensor]]):
        """Takes a checkout, and (n, width) vectors by name and text encoder.

        Raises:
            InputError: files that are missing, or packages that they need.
        """
        self._folder = folder
        self._starts: dict[int, subprocess.Popen[str]] = {}
        with package(folder, "modules", self.REAL):
            self.parser = import_module("modules.prompt_parser")
            clip = import_module("modules.sd_hijack_clip")
            self.without_comments = import_module("modules.processing_scripts.comments").strip_comments
            inversion = import_module("modules.textual_inversion.textual_inversion")
            devices: Any = sys.modules["modules.devices"]
            self.opts = sys.modules["modules.shared"].opts
        devices.device = torch.device("cpu")
        devices.cond_cast_unet = lambda vectors: vectors
        self.opts.comma_padding_backtrack = 20
        self.opts.use_old_emphasis_implementation = self.opts.textual_inversion_add_hashes_to_infotext = False
        self.opts.sdxl_clip_l_skip = False
        self.set_options("Original", 0)
        hijack = SimpleNamespace(
            embedding_db=inversion.EmbeddingDatabase(), fixes=None, extra_generation_params={}
        )
        if bundle.family == "sdxl":
            first = clip.FrozenCLIPEmbedderForSDXLWithCustomWords(
                self._wrapped(bundle.towers[0], hijack), hijack
            )
            self._encoders = [first, self._open_clip(clip, bundle.towers[1], first.tokenizer, hijack)]
        else:
            first = clip.FrozenCLIPEmbedderWithCustomWords(self._wrapped(bundle.towers[0], hijack), hijack)
            first.id_pad = bundle.towers[0].pad_token_id
            self._encoders = [first]
        self.clip = first
        for name, vectors in embeddings.items():
            embedding = inversion.Embedding(dict(vectors), name)
            embedding.vectors, embedding.shape = next(iter(vectors.values())).shape
            hijack.embedding_db.register_embedding(embedding, SimpleNamespace(cond_stage_model=self.clip))

    def set_options(self, emphasis: str, clip_skip: int) -> None:
        """Sets the emphasis by its name there, and the layers left out, counted as the lab does."""
        self.opts.emphasis = emphasis
        self.opts.CLIP_stop_at_last_layers = clip_skip + 1

    def _encoder(self, tower: TextTower, hijack: Any) -> Any:
        """The lab's text encoder, with the web UI's own EmbeddingsWithFixes in it."""
        encoder = copy.deepcopy(tower.encoder)
        inner = getattr(encoder, "text_model", encoder)  # transformers before 5.6 keeps the layers in there
        with_fixes = _class_of(self._folder / "modules" / "sd_hijack.py", "EmbeddingsWithFixes")
        table = inner.embeddings.token_embedding
        inner.embeddings.token_embedding = with_fixes(table, hijack, tower.key)
        inner.embeddings.token_embedding.weight = table.weight
        return encoder

    def _wrapped(self, tower: TextTower, hijack: Any) -> Any:
        """What it takes for ldm's or sgm's FrozenCLIPEmbedder, in SDXL of the last layer but one."""
        encoder = self._encoder(tower, hijack)

        def transformer(input_ids: Tensor, output_hidden_states: int = 0) -> Any:
            return encoder(input_ids, output_hidden_states=True)

        transformer.text_model = getattr(encoder, "text_model", encoder)  # type: ignore[attr-defined]
        tokenizer = _CleaningTokenizer(tower.tokenizer)
        return SimpleNamespace(tokenizer=tokenizer, transformer=transformer, layer="hidden", layer_idx=-2)

    def _open_clip(self, clip: Any, tower: TextTower, tokenizer: Any, hijack: Any) -> Any:
        """Its embedder for SDXL's second text encoder, over the lab's, which it takes for sgm's."""
        encoder = self._encoder(tower, hijack)

        def encode(tokens: Tensor) -> dict[str, Tensor]:
            made = encoder(tokens, output_hidden_states=True)
            return {"penultimate": made.hidden_states[-2], "pooled": made.text_embeds}

        path, name = (
            self._folder / "modules" / "sd_hijack_open_clip.py",
            "FrozenOpenCLIPEmbedder2WithCustomWords",
        )
        vocabulary = (
            tokenizer.get_vocab()
        )  # OpenCLIP's; the second encoder's, in diffusers, reads "!" as padding
        own_names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
        open_clip = SimpleNamespace(
            encode=lambda text: tokenizer([text])["input_ids"][0],
            encoder=vocabulary | {theirs: vocabulary[ours] for theirs, ours in own_names.items()},
        )
        embedder = _class_of(path, name, sd_hijack_clip=clip, opts=self.opts, tokenizer=open_clip)
        wrapped = SimpleNamespace(encode_with_transformer=encode, layer="penultimate", return_pooled=True)
        return embedder(wrapped, hijack)

    def attention(self, text: str) -> list[tuple[str, float]]:
        """Texts with their weights; those without a letter left out."""
        return [(said, weight) for said, weight in self.parser.parse_prompt_attention(text) if said]

    def composition(self, text: str) -> list[tuple[float, str]]:
        """The weight and the text of each part."""
        (parts,), texts, _ = self.parser.get_multicond_prompt_list([text])
        return [(weight, texts[index]) for index, weight in parts]

    def schedule(self, text: str, steps: int) -> list[str]:
        """The text at each call of the U-Net."""
        (entries,) = self.parser.get_learned_conditioning_prompt_schedules([text], steps)
        return self._in_force(entries, steps)

    def readings(self, text: str, steps: int) -> Iterator[list[str]]:
        """The text at each call as its parser, whose order follows the hashes, reads it in other starts of Python."""
        for seed in HASH_SEEDS:
            if seed not in self._starts or self._starts[seed].poll() is not None:
                self._starts[seed] = subprocess.Popen(
                    [sys.executable, "-c", _START, str(self._folder / "modules" / "prompt_parser.py")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env={**os.environ, "PYTHONHASHSEED": str(seed)},
                )
            start = self._starts[seed]
            assert start.stdin and start.stdout
            try:
                print(json.dumps([[text], steps]), file=start.stdin, flush=True)
                line = start.stdout.readline()
            except BrokenPipeError:
                continue
            if line:  # a start that the text ends gives no reading
                yield self._in_force(json.loads(line)[0], steps)

    def close(self) -> None:
        """Ends what `readings` started."""
        for start in self._starts.values():
            start.communicate()

    def _in_force(self, entries: Sequence[tuple[int, str]], steps: int) -> list[str]:
        entry = self.parser.ScheduledPromptConditioning
        places = [[entry(until, torch.tensor(place)) for place, (until, _) in enumerate(entries)]]
        at = [int(self.parser.reconstruct_cond_batch(places, step)[0]) for step in range(steps)]
        return [entries[place][1] for place in at]

    def chunks(self, text: str) -> Chunks:
        """The chunks of a text without schedules."""
        chunks, _ = self.clip.tokenize_line(text)
        made: Chunks = []
        for chunk in chunks:
            tokens: list[Token] = list(chunk.tokens)
            for offset, embedding in chunk.fixes:
                tokens[offset + 1 : offset + 1 + embedding.vectors] = [
                    (embedding.name, vector) for vector in range(embedding.vectors)
                ]
            made.append(list(zip(tokens, chunk.multipliers, strict=False)))
        return made

    def misplaces_embeddings(self, text: str) -> bool:
        """Whether it moves tokens to the next chunk without the vectors that take their places, a fault of its own."""
        chunks, _ = self.clip.tokenize_line(text)
        return any(
            any(chunk.tokens[fix.offset + 1 : fix.offset + 1 + fix.embedding.vectors])
            for chunk in chunks
            for fix in chunk.fixes
        )

    @torch.no_grad()
    def conditioning(self, prompt: str, steps: int, negative: bool) -> Encoded:
        """What a prompt was encoded to at each call."""
        model = SimpleNamespace(get_learned_conditioning=self._learned)
        if negative:
            learned = self.parser.get_learned_conditioning(model, [prompt], steps)
            made = (self.parser.reconstruct_cond_batch(learned, step) for step in range(steps))
            return [([1.0], *_parted(encoded)) for encoded in made]
        learned = self.parser.get_multicond_learned_conditioning(model, [prompt], steps)
        made = (self.parser.reconstruct_multicond_batch(learned, step) for step in range(steps))
        return [([weight for _, weight in parts], *_parted(encoded)) for (parts,), encoded in made]

    def _learned(self, texts: Sequence[str]) -> Any:
        """As the model's own: for SDXL a dictionary, of what both encoders make and of the second's pooled vectors."""
        if len(self._encoders) == 1:
            return self.clip(texts)
        first, (second, pooled) = (encoder(list(texts)) for encoder in self._encoders)
        return {"crossattn": torch.cat([first, second], dim=2), "vector": pooled}


def _parted(encoded: Any) -> tuple[Tensor, Tensor | None]:
    return (encoded["crossattn"], encoded["vector"]) if isinstance(encoded, dict) else (encoded, None)


class _CleaningTokenizer:
    """A tokenizer that cleans with ftfy, as transformers' slow CLIPTokenizer does where ftfy is installed."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._clean = import_module("ftfy").fix_text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: Sequence[str], **options: Any) -> Any:
        return self._tokenizer([self._clean(text) for text in texts], add_special_tokens=False, verbose=False)


def _class_of(path: Path, name: str, **imported: Any) -> Any:
    """A class of a file whose imports would not run, and what it would import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name
    ]
    space: dict[str, Any] = {
        "torch": torch,
        "devices": SimpleNamespace(cond_cast_unet=lambda vectors: vectors),
        **imported,
    }
    exec(compile(ast.Module(found, []), str(path), "exec"), space)
    return space[name]
