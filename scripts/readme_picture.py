"""Draws the README's picture with the bundled model: `python -m scripts.readme_picture`.

What people type first, with the first seed: the upper row without a negative prompt, the lower row with the same noise
and the negative embedding that comes with the model.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import lab
from lab.files import atomic

PICTURE = Path(__file__).parents[1] / "lab" / "assets" / "readme.png"
NEGATIVE = PICTURE.parent / "emoji" / "negative.safetensors"
PROMPTS = ["a tomato", "a banana", "a house", "a pizza", "a guitar", "a dog", "a tree", "a heart"]
SEED, SIDE, GAP, TEXT = 1, 96, 6, 18


def main() -> None:
    bundle, negative_embedding = lab.load("emoji", dtype="float32"), lab.read_embedding(NEGATIVE)
    font = ImageFont.load_default(size=12)
    width = GAP + len(PROMPTS) * (SIDE + GAP)
    picture = Image.new("RGB", (width, 2 * (TEXT + SIDE + GAP)), "white")
    pen = ImageDraw.Draw(picture)
    for row, (label, negative) in enumerate(
        {
            "no negative prompt": None,
            "negative prompt “<negative>”, a learned embedding": "<negative>",
        }.items()
    ):
        top = row * (TEXT + SIDE + GAP)
        pen.text((GAP, top + 1), label, fill="black", font=font)
        settings = {"prompt": PROMPTS, "negative_prompt": negative, "seeds": SEED}
        results = lab.generate(bundle, embeddings=[negative_embedding], **settings)
        for column, result in enumerate(results):
            cell = result.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            picture.paste(cell, (GAP + column * (SIDE + GAP), top + TEXT))
    with atomic(PICTURE) as temporary:
        picture.save(temporary, optimize=True)


if __name__ == "__main__":
    main()
