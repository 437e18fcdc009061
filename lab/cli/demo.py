"""`lab demo`: what the lab does, on the bundled model, as a page of pictures."""

import time
from pathlib import Path

from lab.terminal import console


def demo(*, out: Path = Path("outputs", "demo"), device: str = "auto") -> None:
    """Generate, train and compare with the bundled model, and write a page that shows it.

    Parameters
    ----------
    out: Folder for the page and its pictures.
    device: `auto`, `cpu`, `cuda` or `mps`.
    """
    began = time.perf_counter()
    with console.status("Loading the bundled model"):
        from lab.demo import comparison, learning, pictures
        from lab.demo.page import write_demo_page
        from lab.models.load import load

        bundle = load("emoji", device=device)
    parts = (
        *(pictures.styles, pictures.backgrounds, pictures.negatives, pictures.scales),
        *(learning.learning, comparison.comparison),
    )
    sections = [part(bundle, out) for part in parts]
    seconds = time.perf_counter() - began
    intro = (
        f"Everything here took {seconds:.0f} seconds on {bundle.device.type}, loading and training included. "
        "A CLIP text encoder, a U-Net and a VAE that came with the package made the pictures from the prompts; "
        "nothing was downloaded."
    )
    page = out / "index.html"
    write_demo_page(page, "What the lab does", intro, sections)
    print(f"Done in {seconds:.0f} s. Open {page.resolve().as_uri()}")
