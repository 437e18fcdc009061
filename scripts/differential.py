"""The lab's dialects beside the tools' own code, on generated prompts: what differs, and whose fault it is.

    python -m scripts.differential --a1111 FOLDER --comfy FOLDER --prompts 3000

The folders are checkouts of AUTOMATIC1111/stable-diffusion-webui (1.8 and later) and Comfy-Org/ComfyUI (2025 and
later), whose files that read prompts run as they are, the rest of them mocked (`peers/`); A1111's need
`pip install lark==1.1.2 ftfy`. `--model` of SDXL compares both text encoders and the pooled vector. Differences that
are known faults of the tools, or in which the lab is kinder and says so in a note, are counted apart. The exit code is
1 if there are others.
"""

import argparse
import contextlib
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils.logging import set_verbosity_error

from lab.condition.chunks import Chunk
from lab.condition.conditioning import Encoding
from lab.condition.config import TextOptions
from lab.condition.prompt_encoder import PromptEncoder
from lab.condition.weighting import WEIGHTINGS
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.load import load
from lab.prompt import a1111
from lab.prompt.dialects import DIALECTS
from lab.prompt.parse import parse, references_in, resolve, without_comments
from lab.prompt.syntax import Segment
from scripts.peers.a1111 import A1111, Encoded
from scripts.peers.comfy import ComfyUI
from scripts.peers.mocks import Chunks, Token
from scripts.peers.prompts import VECTORS, make_prompts
from scripts.peers.tally import Check, alike, compare, made

MENTIONS = (
    "embedding:{name}",
    "embedding:{name},",
    "embedding: {name}",
    ",embedding:{name}",
    "embedding:{name}.safetensors",
)
"""How people name them in ComfyUI; before the fourth it wants a space."""


class Lab:
    """What the lab makes of prompts in one dialect."""

    def __init__(
        self, bundle: Bundle, embeddings: Sequence[Embedding], dialect: str, bare_names: bool = False
    ):
        self.bundle, self.embeddings, self.dialect = bundle, embeddings, dialect
        self.options = TextOptions(dialect=dialect, bare_names=bare_names)
        self._plain = PromptEncoder(bundle, embeddings, self.options, 1)

    def attention(self, text: str) -> list[tuple[str, float]]:
        """As the tool's own list: a `BREAK` of weight -1."""
        return [_as_pair(segment) for segment in DIALECTS[self.dialect].read(text).segments]

    def kept(self, text: str) -> str:
        """The text without comments."""
        return without_comments(text, self.dialect)

    def composition(self, text: str) -> list[tuple[float, str]]:
        """The weight and the text of each part."""
        return [(weight, text[slice(*span)]) for weight, span in a1111.compose(text)]

    def schedule(self, text: str, steps: int) -> list[str]:
        """The text at each call of the U-Net."""
        (timeline,) = resolve(parse(text, self.dialect, negative=True), steps)
        until = [variant.until for variant in timeline.variants]
        return [timeline.variants[sum(end < step for end in until)].text for step in range(steps)]

    def chunks(self, text: str) -> Chunks:
        """The chunks of a text, its schedules as they are at first."""
        (timeline,) = self._plain.read(text, negative=True)
        (chunks,) = self._plain.chunks(timeline.variants[0])
        return [self._rows(chunk) for chunk in chunks]

    def _rows(self, chunk: Chunk) -> list[tuple[Token, float]]:
        tower, context = self.bundle.towers[0], self.bundle.context_length
        rows: list[tuple[Token, float]] = [(tower.tokenizer.bos_token_id, 1.0)]
        for word in chunk:
            learned = [
                (word.embedding, word.skipped + place) for place in range(word.length) if word.embedding
            ]
            rows += [(token, word.weight) for token in learned or word.ids[0]]
        rows.append((tower.tokenizer.eos_token_id, 1.0))
        return rows + [(tower.pad_token_id, 1.0)] * (context - len(rows))

    def conditioning(self, prompt: str, steps: int, negative: bool, **settings: Any) -> Encoded:
        """What a prompt is encoded to at each call."""
        options = self.options.model_copy(update=settings)
        encoder = PromptEncoder(self.bundle, self.embeddings, options, steps)
        parts = encoder.encode([prompt], negative)[prompt].parts
        weights = [part.weight for part in parts]
        return [(weights, *_stacked([part.at(step) for part in parts])) for step in range(steps)]

    def as_read(self, text: str) -> str:
        """The text with what the lab reads as an embedding, and it alone, written as ComfyUI wants one written."""
        names = [embedding.name for embedding in self.embeddings]
        found = {one.span[0]: one for one in references_in(text, names, self.dialect)}
        pieces, done = [], 0
        for match in re.finditer("embedding:", text):
            start, end = match.span()
            said = "embedding :"
            if start in found:
                said, end = f" embedding:{found[start].name} ", found[start].span[1]
            pieces += [text[done:start], said]
            done = end
        return "".join([*pieces, text[done:]])


def _stacked(parts: Sequence[Encoding]) -> tuple[Tensor, Tensor | None]:
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return torch.stack([part.embeds for part in parts]), torch.stack(pooled) if pooled else None


def _as_pair(segment: Segment) -> tuple[str, float]:
    return ("BREAK", -1) if segment.kind == "break" else (segment.text, segment.weight)


def steps_for(prompt: str) -> int:
    """1 to 12 steps, always the same for a prompt."""
    return random.Random(prompt).randint(1, 12)


def a1111_checks(tool: A1111, ours: Lab) -> list[Check]:
    """All that is compared with the web UI."""

    def ambiguous(text: str, steps: int) -> bool:
        mine = ours.schedule(text, steps)
        return tool.schedule(text, steps) != mine and mine in tool.readings(text, steps)

    def excuse(prompt: str, theirs: Any, mine: Any) -> str | None:
        text = tool.without_comments(prompt)
        parts = [text, *(part for _, part in tool.composition(text))]
        if any(ambiguous(part, steps_for(prompt)) for part in parts):
            return "A1111's parser gives the lab's reading in other starts of Python"
        texts = {
            first_text(prompt),
            *(said for part in parts for said in ours.schedule(part, steps_for(prompt))),
        }
        if any(map(tool.misplaces_embeddings, texts)):
            return "A1111 leaves an embedding behind when it moves tokens to the next chunk"
        return None

    def scheduled(side: A1111 | Lab) -> Callable[[str], list[str]]:
        return lambda prompt: side.schedule(tool.without_comments(prompt), steps_for(prompt))

    def first_text(prompt: str) -> str:
        return ours.schedule(tool.without_comments(prompt), 1)[0]

    def conditioning(weighting: str, clip_skip: int, negative: bool) -> Check:
        def theirs(prompt: str) -> Any:
            tool.set_options(WEIGHTINGS[weighting].a1111 or "", clip_skip)
            return tool.conditioning(tool.without_comments(prompt), steps_for(prompt), negative)

        def mine(prompt: str) -> Any:
            settings = {"weighting": weighting, "clip_skip": clip_skip}
            return ours.conditioning(prompt, steps_for(prompt), negative, **settings)

        name = f"A1111 {'negative ' * negative}embeddings, {weighting}, clip skip {clip_skip}"
        return Check(name, theirs, mine, excuse, every=31)

    return [
        Check("A1111 comments", lambda t: tool.without_comments(t).split(), lambda t: ours.kept(t).split()),
        Check("A1111 attention", tool.attention, ours.attention),
        Check("A1111 composition", tool.composition, ours.composition),
        Check("A1111 schedules", scheduled(tool), scheduled(ours), excuse),
        Check(
            "A1111 chunks", lambda t: tool.chunks(first_text(t)), lambda t: ours.chunks(first_text(t)), excuse
        ),
        conditioning("a1111", 0, False),
        conditioning("a1111", 1, True),
        conditioning("a1111-no-norm", 0, False),
        conditioning("ignore", 2, False),
    ]


def comfy_checks(tool: ComfyUI, ours: Lab) -> list[Check]:
    """All that is compared with ComfyUI."""

    def excuse(read: Callable[[str], Any]) -> Callable[[str, Any, Any], str | None]:
        """Excuses a difference that is none where ComfyUI reads the embeddings that the lab finds, and no others."""

        def explained(prompt: str, theirs: Any, mine: Any) -> str | None:
            meant = ours.as_read(prompt)
            if meant == prompt or not alike(made(read, meant), mine):
                return None
            return "the lab finds embeddings where ComfyUI would not, or the other way round, and says so"

        return explained

    def conditioning(prompt: str) -> tuple[Tensor, Tensor | None]:
        return ours.conditioning(prompt, 1, False)[0][1:]

    return [
        Check("ComfyUI attention", tool.attention, ours.attention),
        Check("ComfyUI chunks", tool.chunks, ours.chunks, excuse(tool.chunks)),
        Check("ComfyUI embeddings", tool.conditioning, conditioning, excuse(tool.conditioning), every=7),
    ]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--a1111", type=Path, help="a checkout of AUTOMATIC1111/stable-diffusion-webui")
    options.add_argument("--comfy", type=Path, help="a checkout of Comfy-Org/ComfyUI")
    options.add_argument("--prompts", type=int, default=3000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--model", default="emoji", help="of SD 1.x or SDXL, whose text encoders and tokenizers are used"
    )
    arguments = options.parse_args()
    if not arguments.a1111 and not arguments.comfy:
        options.error("give --a1111 FOLDER, --comfy FOLDER or both")
    set_verbosity_error()  # of texts longer than a chunk
    try:
        bundle = load(arguments.model, dtype="float32")
        if bundle.family == "sd2":
            raise InputError(f"--model {arguments.model}: not of SD 1.x or SDXL")
        differ = run(bundle, arguments.a1111, arguments.comfy, arguments.prompts, arguments.seed)
    except InputError as error:
        options.exit(2, f"{error}\n")
    return int(differ > 0)


def run(bundle: Bundle, web_ui: Path | None, graph_ui: Path | None, count: int, seed: int) -> int:
    """Prints what differs on so many prompts, and returns how often without an excuse."""
    with _means_apart_from_zero(bundle):
        return _run(bundle, web_ui, graph_ui, count, seed)


@contextlib.contextmanager
def _means_apart_from_zero(bundle: Bundle) -> Iterator[None]:
    """Shifts the text encoders' states while the block runs: the Original emphasis divides by their mean, which is
    about 0 otherwise."""
    inner = [getattr(tower.encoder, "text_model", tower.encoder) for tower in bundle.towers]
    if bundle.family == "sdxl":  # which takes states from before the last norm
        shifted = [encoder.embeddings.position_embedding.weight for encoder in inner]
    else:
        shifted = [encoder.final_layer_norm.bias for encoder in inner]
    before = [weight.detach().clone() for weight in shifted]
    with torch.no_grad():
        for weight in shifted:
            weight.add_(1)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(shifted, before, strict=True):
                weight.copy_(values)


def _run(bundle: Bundle, web_ui: Path | None, graph_ui: Path | None, count: int, seed: int) -> int:
    draw = torch.Generator().manual_seed(seed)
    vectors = {
        name: {t.key: torch.randn(rows, t.width, generator=draw) / 10 for t in bundle.towers}
        for name, rows in VECTORS.items()
    }
    embeddings = [Embedding(name, rows) for name, rows in vectors.items()]
    differ = 0
    if web_ui:
        with contextlib.closing(A1111(web_ui, bundle, vectors)) as tool:
            ours = Lab(bundle, embeddings, "a1111", bare_names=True)
            differ += tell(a1111_checks(tool, ours), make_prompts(count, seed, ["{name}"]))
    if graph_ui:
        with tempfile.TemporaryDirectory() as directory:
            for name, rows in vectors.items():
                held = rows if len(rows) > 1 else {"emb_params": next(iter(rows.values()))}
                save_file(held, Path(directory, f"{name}.safetensors"))
            checks = comfy_checks(
                ComfyUI(graph_ui, bundle, vectors, directory), Lab(bundle, embeddings, "comfy")
            )
            differ += tell(checks, make_prompts(count, seed, MENTIONS))
    return differ


def tell(checks: Sequence[Check], prompts: Sequence[str]) -> int:
    """Prints what comes of checks, and returns how often something differs without an excuse."""
    differ = 0
    for check in checks:
        tally = compare(check, prompts)
        print("\n".join(tally.lines()), flush=True)
        differ += tally.differ
    return differ


if __name__ == "__main__":
    raise SystemExit(main())
