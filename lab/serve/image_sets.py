"""Sets of images that clients send to learn from, each under an id that the server gives it."""

import re
import secrets
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.errors import InputError
from lab.files import atomic
from lab.images import SUFFIXES, load_image
from lab.serve.bounds import MOST_PIXELS_SENT

UNUSED = 86_400
"""Seconds that a set is kept before a job learns from it."""

_NAME = re.compile(r"\w[\w-]{0,80}(\.mask)?\.\w{1,5}")


@dataclass(frozen=True)
class ImageSets:
    """The sets in a folder."""

    folder: Path

    def keep(self, files: Mapping[str, bytes]) -> str:
        """Keeps a set of images and their captions, and returns its id.

        Args:
            files: By name: images, `NAME.txt` with captions, `NAME.mask.png`.

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
        if not images:
            raise InputError(f"images: there is none ({', '.join(SUFFIXES)})")
        made = self.folder / secrets.token_hex(16)
        for name, data in files.items():
            with atomic(made / name) as temporary:
                temporary.write_bytes(data)
        return made.name

    def find(self, name: str) -> Path:
        """The folder of a set.

        Raises:
            InputError: there is none of that id.
        """
        folder = self.folder / name if re.fullmatch(r"[0-9a-f]{32}", name) else None
        if folder is None or not folder.is_dir():
            raise InputError(f"images: there is no set '{name[:40]}'; send one to /lab/v1/images first")
        return folder

    def remove(self, name: str) -> None:
        """Removes a set, if there is one of that id."""
        shutil.rmtree(self.find(name), ignore_errors=True)

    def remove_unused(self, used: Collection[str]) -> None:
        """Removes the sets that nothing was put into for a day, but for those in use."""
        for made in self.folder.glob("*"):
            if made.name not in used and time.time() - made.stat().st_mtime > UNUSED:
                shutil.rmtree(made, ignore_errors=True)
