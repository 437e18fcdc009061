"""`lab merge`: one embedding out of several."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lab.cli.flags import LayoutFlag, check_embeddings, choice_from
from lab.embeddings.layouts import check_target
from lab.embeddings.merge import METHODS, check_counts
from lab.embeddings.merge import merge as mix
from lab.files import check_writable
from lab.text import counted


def merge(
    *files: str,
    out: Path,
    weights: Annotated[list[float] | None, Parameter(consume_multiple=True)] = None,
    method: Annotated[
        str,
        choice_from(METHODS, "method", "How to mix; average is for files with equal numbers of vectors."),
    ] = "average",
    layout: LayoutFlag = None,
) -> None:
    """Mix embeddings into one: average their vectors, or put them one after another.

    Args:
        files: Two or more embeddings: files of any layout, or hub:org/name.
        out: The file to write: .safetensors, .pt or .bin.
        weights: One number for each file; for an average they are divided by their sum.
    """
    check_embeddings(files)
    check_counts(len(files), weights)
    check_target(out, layout)
    check_writable(out.parent)
    from lab.embeddings.read import read_one

    merged = mix([read_one(file) for file in files], weights, method, name=out.stem)
    merged.save(out, layout)
    print(f"{out}: {counted(merged.count, 'vector')}; {merged.provenance.metadata['modelspec.merged_from']}")
