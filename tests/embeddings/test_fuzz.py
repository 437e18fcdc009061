"""Whatever the bytes are, reading returns an embedding or says in one line why not."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.embeddings.containers import decode
from lab.embeddings.embedding import Embedding, check_vectors
from lab.embeddings.layouts import recognise
from lab.embeddings.read import read_file
from lab.errors import InputError
from tests.embeddings.files import LAYOUTS, vectors

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
