"""The folder of a run: what was asked for and from what, how much of it is done, and who is writing in it."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from filelock import FileLock, Timeout
from PIL import Image

from lab.errors import InputError
from lab.files import atomic, is_file, is_folder, read_text, writing
from lab.runs.png import record_beside, save_image
from lab.strict_yaml import read_yaml

if TYPE_CHECKING:
    from accelerate import PartialState

_NAME = re.compile(r"(\d{5,})-seed(\d+)(-[a-z0-9-]+)?\.png")

SHOWN = 3
"""Differences from the run in a folder that are named."""


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: `config.yaml` that starts it again, `contents.sha256` with a digest of each thing it is made of.

    Whether a folder holds the same run is decided by the settings in the one and by all of the other, never by the
    names of files. Images are named so that they sort as they were asked for.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, config: str, contents: Mapping[str, str], free: Collection[str] = ()) -> Self:
        """Begins a run in a folder, or goes on with the same run in it.

        Args:
            config: The run's whole config as YAML.
            contents: A digest of each thing that decides the result, by what it is: "model", "prompt 3", "embedding
                cat". `text_digest` and `file_digest` make digests.
            free: Settings in which the config may differ from the stored one, which is then replaced: those whose
                effect `contents` covers, and those that change no image.

        Raises:
            InputError: the folder holds another run (it says in what), or cannot be written.
        """
        folder = cls(path)
        if folder.exists:
            differences = folder.differences(config, contents, free)
            if differences:
                raise InputError(
                    f"{path}: holds a run with other settings or contents ({differences}); choose another --out"
                )
            if read_text(folder.config) == config:
                return folder
        elif folder.finished():
            raise InputError(
                f"{path}: holds images of a run without its config.yaml, so of which cannot be told; "
                "choose another --out"
            )
        folder.begin(config, contents)
        return folder

    @classmethod
    @contextmanager
    def shared(
        cls,
        path: Path,
        config: str,
        contents: Mapping[str, str],
        free: Collection[str],
        processes: "PartialState",
    ) -> Iterator[Self]:
        """A run's folder for all processes of a launch while the block runs; takes what `open` takes.

        The first one locks the folder, and begins the run or goes on with it, before the others enter the block; none
        leaves it before all have come to its end.

        Raises:
            InputError: see `open` and `locked`.
        """
        folder = cls(path)
        with folder.locked() if processes.is_main_process else nullcontext():
            if processes.is_main_process:
                cls.open(path, config, contents, free)
            processes.wait_for_everyone()
            yield folder
            processes.wait_for_everyone()

    @property
    def config(self) -> Path:
        """The file with the run's settings; it is written last, so that if it is there, all is."""
        return self.path / "config.yaml"

    @property
    def contents(self) -> Path:
        """The file with the digests of what the run is made of, in the form of the command sha256sum."""
        return self.path / "contents.sha256"

    @property
    def exists(self) -> bool:
        """Whether there is a run in the folder.

        Raises:
            InputError: the folder cannot be looked into.
        """
        with writing(self.path, "--out"):
            return self.config.is_file()

    def begin(self, config: str, contents: Mapping[str, str]) -> None:
        """Writes down what the run is and what it is made of.

        Raises:
            InputError: the folder cannot be written.
        """
        digests = "".join(f"{digest}  {name}\n" for name, digest in _on_lines(contents).items())
        for file, text in ((self.contents, digests), (self.config, config)):
            with atomic(file) as temporary:
                temporary.write_text(text, encoding="utf-8", errors="surrogateescape")

    def differences(self, config: str, contents: Mapping[str, str], free: Collection[str] = ()) -> str:
        """Says in what a run differs from the one in the folder, such as "steps, prompt 2 changed"; "" if in nothing.

        Raises:
            InputError: the folder does not say what its run is made of.
        """
        before, contents = self._stored_contents(), _on_lines(contents)
        changed = _changed_settings(read_text(self.config), config, free)
        for name in dict.fromkeys([*before, *contents]):
            if before.get(name) != contents.get(name):
                how = "is new" if name not in before else "changed" if name in contents else "is missing"
                changed.append(f"{name} {how}")
        more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        return ", ".join(changed[:SHOWN]) + more

    def _stored_contents(self) -> dict[str, str]:
        try:
            lines = self.contents.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
            pairs = [line.partition("  ") for line in lines if line]
            if not all(digest and name for digest, _, name in pairs):
                raise OSError("not a list of digests")
        except OSError:
            raise InputError(
                f"{self.path}: holds a run that does not say what it is made of, as {self.contents.name} is missing "
                "or damaged; choose another --out"
            ) from None
        return {name: digest for digest, _, name in pairs}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out while the block runs; the lock of a process that died is no lock.

        Raises:
            InputError: another process is writing here, or the folder cannot be written.
        """
        with writing(self.path, "--out"):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                held = FileLock(self.path / ".lock", blocking=False).acquire()
            except Timeout:
                raise InputError(
                    f"{self.path}: in use by another process that is running; wait, or choose another --out"
                ) from None
        with held:
            yield

    def image_path(self, index: int, seed: int, prompt: str) -> Path:
        """Where the run's image of that index is, or will be: 00012-seed7-a-red-apple.png."""
        words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
        return self.path / f"{index:05d}-seed{seed}{'-' if words else ''}{words}.png"

    def finished(self) -> dict[int, Path]:
        """The images that the run has made, by their index.

        Other images do not count: what `lab rerun` or a person put beside them has another name than its record says.

        Raises:
            InputError: the record of an image is damaged or was edited.
        """
        images = {}
        for path in sorted(self.path.glob("*.png")):
            match = _NAME.fullmatch(path.name)
            if match and path == self.image_path(int(match[1]), int(match[2]), _prompt_beside(path)):
                images[int(match[1])] = path
        return images

    def save(self, index: int, image: Image.Image, record: dict[str, Any], parameters: str) -> Path:
        """Writes one image with its metadata (see `save_image`), and returns its path.

        Raises:
            InputError: the folder cannot be written, or the disk is full.
        """
        path = self.image_path(index, record["seed"], record["prompt"])
        save_image(path, image, record, parameters)
        return path


@contextmanager
def made_again(image: Path) -> Iterator[None]:
    """Adds what to do to what is wrong with an image of a run that the block reads.

    Raises:
        InputError: the block raised it.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}; delete {image.name}, and the same command makes it again") from None


def run_digest(config: str, contents: Mapping[str, str], free: Collection[str] = ()) -> str:
    """A digest of what `RunFolder.open` tells runs apart by: 64 hexadecimal digits."""
    settings = {key: value for key, value in yaml.safe_load(config).items() if key not in free}
    return text_digest(json.dumps([settings, dict(contents)], sort_keys=True))


def text_digest(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; read again only when the file changes. Of a folder, that of a list of its
    files' digests and names, in the form of the command sha256sum.

    Raises:
        InputError: the file cannot be read.
    """
    if is_folder(path):
        files = sorted(file for file in path.iterdir() if is_file(file) and not file.name.startswith("."))
        return digest_of_files(files)
    try:
        status = path.stat()
        return _file_digest(path.resolve(), status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def digest_of_files(files: Iterable[Path]) -> str:
    """The SHA-256 of a list of files' digests and names, in the form of the command sha256sum, in hexadecimal.

    Raises:
        InputError: a file cannot be read.
    """
    return text_digest("".join(f"{file_digest(file)}  {file.name}\n" for file in files))


@lru_cache(maxsize=64)
def _file_digest(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _on_lines(contents: Mapping[str, str]) -> dict[str, str]:
    """Digests by names that take one line each."""
    return {name.replace("\n", "\\n"): digest for name, digest in contents.items()}


def _prompt_beside(image: Path) -> str:
    """The prompt in the record beside an image; "" if there is no record."""
    return record_beside(image)["prompt"] if image.with_suffix(".json").is_file() else ""


def _changed_settings(before: str, now: str, free: Collection[str]) -> list[str]:
    """The names of the settings in which two YAML configs differ."""
    if before == now:
        return []
    try:
        one, other = (read_yaml(text, "config.yaml")[0] for text in (before, now))
        keys = sorted({str(key) for key in one.keys() | other.keys()} - set(free))
        return [key for key in keys if one.get(key) != other.get(key)]
    except (InputError, AttributeError):
        return ["its config.yaml was edited"]
