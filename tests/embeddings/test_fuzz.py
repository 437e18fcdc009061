"""Whatever the bytes are, reading returns an embedding or says in one line why not."""

import base64
import pickle
import warnings
from io import BytesIO

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lab.embeddings.containers import decode
from lab.embeddings.embedding import Embedding, check_vectors
from lab.embeddings.layouts import recognise
from lab.embeddings.read import read_file
from lab.errors import InputError
from tests.embeddings.files import LAYOUTS, torch_file, vectors

SMALL = {name: make(vectors(2, 8)) for name, (_, make) in LAYOUTS.items()}


def read(data: bytes) -> None:
    """All of `read_file` that depends on the bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a stranger's file should not make a library talk to the user
        try:
            check_vectors(recognise(decode(data))[1].vectors)
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_is_refused_or_read(name):
    data = SMALL[name]
    for length in range(0, len(data), max(1, len(data) // 150)):
        read(data[:length])


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    )
)
def test_changed_bytes(name, changes):
    data = bytearray(SMALL[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    read(bytes(data))


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([data[:cut] for data in SMALL.values() for cut in (2, 4, 9, 16, 64)]),
    rest=st.binary(max_size=400),
)
def test_beginnings_of_real_files_and_then_anything(start, rest):
    read(start + rest)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=50))
def test_through_the_file_system(tmp_path, data):
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    try:
        assert isinstance(read_file(path), Embedding)
    except InputError as error:
        assert str(error).startswith(str(path))


def legacy(fifth):
    """A file of torch's old layout, with a fifth pickle."""
    sizes = {"short": 2, "int": 4, "long": 4}
    told = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    return (
        b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, told, {})) + fifth
    )


def chunk_image(text):
    """A picture with a JSON text where A1111 puts an embedding."""
    info, file = PngInfo(), BytesIO()
    info.add_text("sd-ti-embedding", base64.b64encode(text).decode())
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (torch_file([{"<x>": torch.ones(1).expand(2_000_000, 768)}]), "declares a tensor of"),
        (
            torch_file({"clip_l": torch.zeros(1).expand(16_000_000, 768), "clip_l_out": torch.ones(1, 768)}),
            "declares",
        ),
        (
            legacy(b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\xbc\xa0\x65\x01\x85R."),
            "asks for __builtin__.bytearray",
        ),
        (legacy(b"\x80\x02\x8a\x05\x00\xbc\xa0\x65\x01."), "declares a size of"),
        (chunk_image(b"[" + b"[]," * 60_000 + b"[]]"), "more lists than an embedding has"),
        (
            torch_file([{"<a>": torch.ones(1, 256)}, {"<b>": torch.ones(1, 512)}]),
            "several widths for clip: 256, 512",
        ),
        (torch_file([{"<a>": torch.ones(2, 0)}]), "there are no vectors"),
    ],
)
def test_what_claims_more_than_it_holds_is_refused_before_memory_is_taken(data, said):
    with pytest.raises(InputError, match=said):
        check_vectors(recognise(decode(data))[1].vectors)


def test_huge_values_and_half_characters_go_through_every_command(tmp_path):
    Embedding("<\ud83d>", {"clip_l": torch.full((1, 768), 3e38)}).save(tmp_path / "x.bin")
    embedding = read_file(tmp_path / "x.bin")
    assert embedding.a1111_checksum is None
    embedding.save(tmp_path / "y.safetensors")
    assert torch.equal(read_file(tmp_path / "y.safetensors").vectors["clip_l"], embedding.vectors["clip_l"])
