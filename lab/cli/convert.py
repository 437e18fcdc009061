"""`lab convert`: an embedding in another file layout."""

from pathlib import Path

from lab.cli.flags import LayoutFlag, check_embeddings
from lab.embeddings.layouts import check_target
from lab.files import check_writable


def convert(
    source: str,
    out: Path,
    /,
    *,
    layout: LayoutFlag = None,
) -> None:
    """Write an embedding in another file layout, typically a pickle as safetensors.

    Args:
        source: The embedding: a file of any layout, a folder that holds one, or hub:org/name.
        out: The file to write: .safetensors, or .pt or .bin for a pickle.
    """
    check_embeddings([source])
    check_target(out, layout)
    check_writable(out.parent, "place")
    from lab.embeddings.read import read_one

    embedding = read_one(source, name=out.stem)
    embedding.save(out, layout)
    written = read_one(out)
    left = sorted(embedding.foreign.keys() - written.foreign.keys())
    if left:
        print(f"left out, as no model here has their text encoders: {', '.join(left)}")
    vectors = " + ".join(f"{key} {written.count} x {width}" for key, width in written.widths.items())
    print(f"{source} ({embedding.provenance.layout}) -> {out} ({written.provenance.layout}): {vectors}")
