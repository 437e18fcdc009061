"""The demo: generate, train and compare with one model, and a page that shows all of it."""

import time
from pathlib import Path

from lab.demo.page import write_demo_page
from lab.demo.sections import backgrounds, comparison, learning, negatives, scales, styles
from lab.listening import Listener
from lab.models.bundle import Bundle

SECTIONS = {
    "Things and styles": styles,
    "Backgrounds": backgrounds,
    "Negative prompt": negatives,
    "Guidance scale": scales,
    "Training": learning,
    "Comparison": comparison,
}
"""What makes each section of the page, by what the terminal says meanwhile."""


def write_demo(
    bundle: Bundle, out: Path, listener: Listener = Listener(), began: float | None = None
) -> tuple[Path, float]:
    """Makes all pictures of the demo in a folder, and its index.html.

    Args:
        bundle: The bundled model, whose prompts and pictures the demo has.
        began: `time.perf_counter()` when the demo was started, if loading shall count.

    Returns:
        The page, and the seconds that it took.

    Raises:
        InputError: a folder that cannot be written.
    """
    began = time.perf_counter() if began is None else began
    sections = []
    for name, make_section in SECTIONS.items():
        listener.note(name)
        sections.append(make_section(bundle, out, listener))
    seconds = time.perf_counter() - began
    intro = (
        f"Everything here took {seconds:.0f} seconds on {bundle.device.type}, loading and training included. "
        "A CLIP text encoder, a U-Net and a VAE that came with the package made the pictures from the prompts; "
        "nothing was downloaded."
    )
    page = out / "index.html"
    write_demo_page(page, "What the lab does", intro, sections)
    return page, seconds
