"""`lab demo`: what the lab does, on the bundled model, as a page of pictures."""

import time
from pathlib import Path

from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.terminal import Bars, console


def demo(*, out: Path = Path("outputs", "demo"), device: str = "auto") -> None:
    """Generate, train and compare with the bundled model, and write a page that shows it.

    Parameters
    ----------
    out: Folder for the page and its pictures.
    device: `auto`, `cpu`, `cuda` or `mps`.
    """
    began = time.perf_counter()
    ModelOptions.build({"device": device})
    check_writable(out)
    with console.status("Loading the bundled model"):
        from lab.demo.demo import write_demo
        from lab.models.load import load

        bundle = load("emoji", device=device)
    with Bars() as bars:
        page, seconds = write_demo(bundle, out, bars, began)
    print(f"Done in {seconds:.0f} s. Open {page.resolve().as_uri()}")
    print("To play with the model yourself: lab serve, then open http://127.0.0.1:7860")
