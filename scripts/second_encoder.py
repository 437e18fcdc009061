"""A second model with the bundled U-Net and a text encoder of another width, to convert embeddings to and back.

    python -m scripts.second_encoder OUT [--width 128] [--steps 1500]

The text encoder begins at random, its token embeddings too, and learns to say what the bundled one says, through a
linear map: captions of the bundled model, its objects among other words, and words of its vocabulary in any order. The
map is then multiplied into the U-Net's cross-attention, so that the folder is a model like any other.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

import lab
from lab.models.bundle import Bundle
from lab.models.vocabulary import whole_words

TEACHER = Path("lab/assets/emoji")
WIDTH, STEPS = 128, 1500
TEXTS_A_STEP, ROWS = 48, 20
WHOLE_EVERY = 8
"""Steps of which one reads the whole context, padding and all, and the others its first rows."""

STYLES = ("noto", "fluent", "twemoji")
COLOURS = "white black red green blue yellow orange purple pink brown gray teal".split()
FRAMES = (
    "a {0} emoji of a {1} on a {2} background",
    "{0} emoji of {1}",
    "a {1} on a {2} background",
    "a picture of a {1} on a {2} background",
    "a {3} {1}",
    "{1}, {3}",
    "a {1} and a {3}",
    "{3} in {2}",
    "{1}",
)


class Student(nn.Module):
    """A text encoder of `width` in place of the teacher's, and the map from its hidden states to the teacher's."""

    def __init__(self, teacher: CLIPTextModel, width: int):
        super().__init__()
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
        self.encoder = CLIPTextModel(CLIPTextConfig(**{**teacher.config.to_dict(), **sizes}))
        self.map = nn.Linear(width, teacher.config.hidden_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(b, rows, d): of token ids (b, rows), what is held against the teacher's hidden states."""
        return self.map(self.encoder(ids).last_hidden_state)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    make_second(arguments.out, arguments.width, arguments.steps)


def make_second(out: Path, width: int = WIDTH, steps: int = STEPS, seed: int = 0) -> Path:
    """Trains the encoder and saves the model as a folder that every command takes, if it is not there; returns it."""
    if (out / "model_index.json").is_file():
        return out
    bundle = lab.load("emoji", device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = Student(bundle.towers[0].encoder, width)
    distil(bundle, student, steps, seed)
    pipeline = bundle.pipeline()
    pipeline.register_modules(
        text_encoder=student.encoder.eval(), unet=read_through(bundle.unet, student.map)
    )
    pipeline.save_pretrained(out)
    for name in ("generation_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"):
        (out / name).write_bytes((TEACHER / name).read_bytes())
    return out


def distil(bundle: Bundle, student: Student, steps: int, seed: int) -> None:
    """Teaches the student what the bundle's text encoder says, and prints what is missing of its variance."""
    teacher, tokenizer = bundle.towers[0].encoder, bundle.towers[0].tokenizer
    texts = captions(bundle, seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        ids = tokenizer(
            [next(texts) for _ in range(TEXTS_A_STEP)],
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )["input_ids"]
        ids = ids if step % WHOLE_EVERY == 0 else ids[:, :ROWS]
        with torch.no_grad():
            told = teacher(ids).last_hidden_state[:, 1:]
        found = student(ids)[:, 1:]
        missing = (found - told).square().sum() / (told - told.mean(dim=(0, 1))).square().sum()
        optimizer.zero_grad()
        missing.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: {missing.item():.3f} of the variance is missing", flush=True)


def captions(bundle: Bundle, seed: int) -> Iterator[str]:
    """Yields texts without end: half of them as the bundled model's captions are, half words in any order."""
    draw = random.Random(seed)
    objects = json.loads((TEACHER / "held_out.json").read_text(encoding="utf-8"))["training_objects"]
    words = whole_words(bundle.towers[0].tokenizer, shortest=1)
    while True:
        frame = draw.choice(FRAMES)
        yield frame.format(
            draw.choice(STYLES), draw.choice(objects), draw.choice(COLOURS), draw.choice(words)
        )
        yield " ".join(draw.choices(words, k=draw.randint(1, 12)))


def read_through(unet: UNet2DConditionModel, change: nn.Linear) -> UNet2DConditionModel:
    """A U-Net that reads states `change` maps to those the given one reads."""
    width = change.in_features
    other = UNet2DConditionModel.from_config({**unet.config, "cross_attention_dim": width})
    weights = {
        name: weight @ change.weight.to(weight)
        if ".attn2.to_k." in name or ".attn2.to_v." in name
        else weight
        for name, weight in unet.state_dict().items()
    }
    other.load_state_dict(weights)
    return other


if __name__ == "__main__":
    main()
