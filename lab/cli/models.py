"""`lab models`: what is bundled, and what a folder or file is."""

from typing import TYPE_CHECKING

from lab.text import counted

if TYPE_CHECKING:
    from rich.table import Table

    from lab.models.describe import Description


def models(source: str | None = None) -> None:
    """List what is bundled, or say what a folder or file is.

    Parameters
    ----------
    source
        A bundled model's name, a diffusers folder, `file:x.safetensors`, `hub:org/name` or
        `hub:org/name/x.safetensors`; without one, everything that is bundled.
    """
    from lab.models.describe import describe
    from lab.models.source import bundled
    from lab.terminal import Bars, make_console

    console = make_console()
    for name in [source] if source else bundled():
        with Bars() as bars:
            description = describe(name, listener=bars)
        console.print(_table(description))
    if not source:
        console.print("More: lab models FOLDER, file:x.safetensors, or hub:org/name.")


def _table(model: "Description") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from lab.models.detection import WHERE_TO_GET_A_VAE

    facts, defaults = model.facts, model.facts.defaults
    marked = {"family": facts.traits.label, "predicts": facts.prediction_type}
    rows = {
        **{name: f"{marked.get(name, 'yes')} ({by})" for name, by in model.told_by.items()},
        "text encoders": ", ".join(f"{key} ({width} wide)" for key, width in model.encoders),
        "parameters": ", ".join(f"{part} {count:,}" for part, count in model.parameters.items() if count),
        **({} if model.parameters["vae"] else {"lacks": f"a VAE; {WHERE_TO_GET_A_VAE}"}),
        "stored as": ", ".join(model.dtypes),
        "hash": model.hash[:10],
        "default size": f"{defaults.width} x {defaults.height} px",
        "defaults": f"{defaults.scheduler}, {counted(defaults.steps, 'step')}, guidance {defaults.guidance:g}, "
        f"guidance rescale {defaults.guidance_rescale:g}",
        "where": str(facts.root),
    }
    table = Table(title=Text(facts.source), title_justify="left", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))  # brackets in a path are no markup
    return table
