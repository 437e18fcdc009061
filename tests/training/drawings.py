"""Small drawings to learn from."""

from pathlib import Path

from PIL import Image, ImageDraw

GROUNDS = ("white", "lightblue", "pink", "lightgreen", "khaki")


def draw(folder: Path, count: int = 3, size: tuple[int, int] = (32, 32)) -> Path:
    """Saves a disc with a square in it, in several places on several grounds."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        width, height = size
        image = Image.new("RGB", size, GROUNDS[number % len(GROUNDS)])
        x, y, r = width // 2 + number, height // 2 - number, min(size) // 3
        pen = ImageDraw.Draw(image)
        pen.ellipse([x - r, y - r, x + r, y + r], fill="orange")
        pen.rectangle([x - r // 2, y - r // 2, x + r // 2, y + r // 2], fill="purple")
        image.save(folder / f"toy-{number}.png")
    return folder
