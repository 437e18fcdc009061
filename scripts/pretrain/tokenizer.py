"""Train the byte-pair vocabulary on captions and words for objects, and write it in CLIP's layout, old and new.

The order of the vocabulary is CLIP's: 256 bytes, the same 256 ending a word, the merges in order, start, end.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from scripts.pretrain.caption import caption
from scripts.pretrain.common import WORK, arguments, read_config, write_text
from scripts.pretrain.data import Data, load

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
FOLDER = WORK / "tokenizer"


def corpus(data: Data, config: dict[str, Any]) -> Iterator[str]:
    """Captions of the training scenes, and every word for an object so often that it becomes one token."""
    order = random.Random(config["seed"])
    for index in order.sample(data.indices("train"), config["captions"]):
        yield caption(data.scenes[index], data.words, order)
    for name in (*data.split.train, *data.split.objects):
        yield from (name, *data.words[name]) * config["repeated"]


def learn(texts: Iterator[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of at most `size` entries, learnt as CLIP splits text."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    entries = [*letters, *(f"{c}</w>" for c in letters), *("".join(m) for m in merges), START, END]
    return {entry: i for i, entry in enumerate(dict.fromkeys(entries))}, merges


def write(vocabulary: dict[str, int], merges: list[tuple[str, str]], folder: Path) -> CLIPTokenizer:
    """tokenizer.json (new transformers) and vocab.json with merges.txt (old ones); the tokenizer as it reads back."""
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=LENGTH,
    )
    tokenizer.save_pretrained(folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    for name, value in (("tokenizer.json", whole), ("vocab.json", vocabulary)):
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # a third of the indented size
        write_text(folder / name, text)
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    write_text(folder / "merges.txt", "\n".join(lines) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def main() -> None:
    """Run the stage."""
    config = read_config(arguments("tokenizer", __doc__).config)
    vocabulary, merges = learn(corpus(load(), config), config["entries"])
    tokenizer = write(vocabulary, merges, FOLDER)
    for text in ("a noto emoji of a red apple on a teal background, washed out", "an unheard-of zxq 42"):
        print(len(tokenizer), tokenizer.tokenize(text))


if __name__ == "__main__":
    main()
