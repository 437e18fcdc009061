"""Sets of images that clients send to learn from, each under an id that the server gives it."""

import itertools
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.errors import InputError
from lab.files import atomic, writing
from lab.images import SUFFIXES, load_image
from lab.serve.bounds import MOST_PIXELS_SENT
from lab.training.data.masks import masks_among

UNUSED = 86_400
"""Seconds that a set is kept before a job learns from it."""

_NAME = re.compile(r"\w[\w-]{0,80}(\.mask)?\.\w{1,5}")


@dataclass(frozen=True)
class ImageSets:
    """The sets in a folder."""

    folder: Path

    def keep(self, files: Mapping[str, bytes], joined: str | None = None) -> str:
        """Keeps a set of images and their captions, and returns its id.

        Args:
            files: By name: images, `NAME.txt` with captions, `NAME.mask.png`.
            joined: A set that they join, in place of what has the same name there; by default a new one.

        Raises:
            InputError: a name that is none of a file, another kind of file, one that cannot be read, or no image.
        """
        images = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
        for name, data in files.items():
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"images: '{name[:60]}' is no name for a file here; use letters, digits, '-' and '_'"
                )
            if name in images:
                load_image(Path(name), data, MOST_PIXELS_SENT)
            elif not name.endswith(".txt"):
                raise InputError(f"images: {name}: neither an image nor a .txt with captions")
        if not images and joined is None:
            raise InputError(f"images: there is none ({', '.join(SUFFIXES)})")
        made = self._new() if joined is None else self.find(joined)
        for name, data in files.items():
            with atomic(made / name) as temporary:
                temporary.write_bytes(data)
        return made.name

    def has(self, name: str) -> bool:
        """Whether there is a set of that id."""
        return bool(re.fullmatch(r"[0-9a-f]{32}", name)) and (self.folder / name).is_dir()

    def find(self, name: str) -> Path:
        """The folder of a set.

        Raises:
            InputError: there is none of that id.
        """
        if not self.has(name):
            raise InputError(f"images: there is no set '{name[:40]}'; send one to /lab/v1/images first")
        return self.folder / name

    def copy(self, name: str) -> str:
        """Keeps a set once more, for a run that goes on from what it began with, and returns the copy's id.

        Raises:
            InputError: there is none of that id, or the folder cannot be written.
        """
        made = self._new()
        with writing(made):
            shutil.copytree(self.find(name), made)
            made.touch()  # it is new, though its images are not
        return made.name

    def caption(self, name: str, image: str, text: str) -> None:
        """Keeps the captions of an image of a set, one a line; without any, its file of captions goes.

        Raises:
            InputError: there is no such image, or the folder cannot be written.
        """
        file = self._image(name, image).with_suffix(".txt")
        if not text.strip():
            file.unlink(missing_ok=True)
            return
        with atomic(file) as temporary:
            temporary.write_text(text.strip() + "\n", encoding="utf-8")

    def take_out(self, name: str, image: str) -> int:
        """Removes an image of a set, with its captions and its masks unless another image of that stem has them too,
        and returns how many are left, masks not counted.

        Raises:
            InputError: there is no such image.
        """
        file = self._image(name, image)
        images = [self.folder / name / one for one in self._images(name)]
        masks = masks_among(images, ())
        pictures = {*images} - {mask for _, mask in masks}
        stem = file.stem.casefold()
        gone = [file]
        if not any(one.stem.casefold() == stem for one in pictures - {file}):
            gone += [file.with_suffix(".txt"), *(mask for of, mask in masks if of == stem)]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(pictures - {*gone})

    def _image(self, name: str, image: str) -> Path:
        if image not in self._images(name):
            raise InputError(f"images: there is no '{image[:60]}' among them")
        return self.folder / name / image

    def _images(self, name: str) -> set[str]:
        return {path.name for path in self.find(name).iterdir() if path.suffix.lower() in SUFFIXES}

    def _new(self) -> Path:
        return self.folder / secrets.token_hex(16)

    def remove(self, name: str) -> None:
        """Removes a set, if there is one of that id."""
        if self.has(name):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def remove_unused(self, used: Collection[str]) -> None:
        """Removes the sets that nothing was put into for a day, but for those in use."""
        for made in self.folder.glob("*"):
            if made.name not in used and time.time() - made.stat().st_mtime > UNUSED:
                shutil.rmtree(made, ignore_errors=True)


def tidy_names(names: Iterable[str]) -> dict[str, str]:
    """Names that a set takes, by those that people's files have; files of one stem stay together."""
    stems: dict[str, str] = {}
    found = {}
    for name in names:
        stem, suffix = Path(name).stem, Path(name).suffix
        stem, mask = (stem.removesuffix(".mask"), ".mask") if stem.endswith(".mask") else (stem, "")
        if stem not in stems:
            tidy = re.sub(r"[^\w-]+", "-", stem).strip("-")[:60] or "image"
            numbered = (f"{tidy}-{number}" for number in itertools.count(2))
            stems[stem] = next(one for one in itertools.chain([tidy], numbered) if one not in stems.values())
        found[name] = stems[stem] + mask + suffix
    return found
