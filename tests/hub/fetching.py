import os

import pytest

from lab.errors import InputError
from lab.hub.repository import open_repository
from lab.listening import Listener

LARGE = os.urandom(3_000_000)
FILES = {"config.json": b"{}", "part/x.safetensors": LARGE, "README.md": b"# read me"}


def fetched(name="org/name", names=tuple(FILES), listener=Listener(), **options):
    folder = open_repository(name, listener=listener, **options).fetch(list(names), listener)
    return {name: (folder / name).read_bytes() for name in names}


def refused(*arguments, **options):
    """The line in which it is said that the files cannot be had."""
    with pytest.raises(InputError) as raised:
        fetched(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)
