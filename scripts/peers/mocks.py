"""A tool's own modules from a checkout, with mocks for whatever else they import. Nothing of the tools is here."""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

from lab.errors import InputError

Token = int | tuple[str, int]
"""A token id, or a learned embedding's name and which of its vectors."""

Chunks = list[list[tuple[Token, float]]]
"""Of each chunk its tokens with their weights, from the start token to the padding."""


class _Mocks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a mock for each module of a package that is not among those that are to run."""

    def __init__(self, package: str, real: Sequence[str]):
        self._prefix = f"{package}."
        self._real = {f"{package}.{name}" for name in real}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not name.startswith(self._prefix) or name in self._real:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return MagicMock(__path__=[], __spec__=spec)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextlib.contextmanager
def package(folder: Path, package: str, real: Sequence[str]) -> Iterator[None]:
    """Lets a checkout's package be imported, its modules `real` as they are and all others as mocks.

    Raises:
        InputError: the folder lacks one of them.
    """
    for name in real:
        path = folder.joinpath(package, *name.split(".")).with_suffix(".py")
        if not path.is_file():
            raise InputError(f"{folder}: no checkout of the tool, {path} is missing")
    before = set(sys.modules)
    root = ModuleType(package)
    root.__path__ = [str(folder / package)]
    sys.modules[package] = root
    for name in {name.rpartition(".")[0] for name in real} - {""}:
        inner = ModuleType(f"{package}.{name}")
        inner.__path__ = [str(folder.joinpath(package, *name.split(".")))]
        sys.modules[inner.__name__] = inner
        setattr(root, name, inner)
    finder = _Mocks(package, [*real, *{name.rpartition(".")[0] for name in real}])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name == package or name.startswith(f"{package}."):
                del sys.modules[name]


def import_module(name: str) -> Any:
    """A module of the package, or one that the tool needs.

    Raises:
        InputError: a package that is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"{name} needs {error.name}: pip install {error.name}") from None
