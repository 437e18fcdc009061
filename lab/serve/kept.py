"""What the server keeps for its clients, and how long: images that they sent, images that they asked for as URLs, and
sets of images to learn from. What else is in its folder they asked to be made, and it stays."""

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException

from lab.errors import InputError
from lab.files import atomic
from lab.images import SUFFIXES, load_image
from lab.serve.bounds import MOST_PIXELS_SENT
from lab.serve.config import ServeOptions

MOST_KEPT = 1000
"""Images that clients sent, and images that they asked for as URLs, beside those that may be waited for."""

UNUSED = 86_400
"""Seconds that a set of images is kept before a job learns from it."""

_NAME = re.compile(r"\w[\w-]{0,80}(\.mask)?\.\w{1,5}")
_URL = re.compile(r"[0-9a-f]{32}\.(png|jpeg|webp)")


class KeptImages:
    """Images in a server's folder `out`: of those sent, in `uploads`, and of those that URLs lead to, in `images`, the
    newest."""

    def __init__(self, options: ServeOptions):
        self._sent = options.out.absolute() / "uploads"  # which records say to `lab rerun`
        self._offered = options.out / "images"
        self._options = options

    def take(self, data: bytes) -> Path:
        """Keeps an image that a client sent under a name that its contents give, and returns its path.

        Raises:
            InputError: no image that can be read, or one of too many pixels.
        """
        load_image(Path("image"), data, MOST_PIXELS_SENT)
        return self._keep(self._sent / hashlib.sha256(data).hexdigest(), data)

    def offer(self, data: bytes, kind: str) -> str:
        """Keeps an image file of a kind, such as `png`, and returns the name by which `find` knows it."""
        return self._keep(self._offered / f"{secrets.token_hex(16)}.{kind}", data).name

    def find(self, name: str) -> Path:
        """The file of an image that was offered.

        Raises:
            HTTPException: 404, there is none of that name.
        """
        path = self._offered / name if _URL.fullmatch(name) else None
        if path is None or not path.is_file():
            raise HTTPException(404, "there is no image of that name")
        return path

    def _keep(self, path: Path, data: bytes) -> Path:
        """Writes a file, also where it is there: it becomes the newest. The oldest of too many are removed."""
        with atomic(path) as temporary:
            temporary.write_bytes(data)
        with os.scandir(path.parent) as found:
            files = [Path(file) for file in found if not file.name.startswith(".")]
        extra = len(files) - (MOST_KEPT + self._options.max_waiting)
        if extra > 0:
            for file in sorted(files, key=_modified)[:extra]:
                file.unlink(missing_ok=True)
        return path


@dataclass(frozen=True)
class ImageSets:
    """Sets of images in a folder, each under an id that the server gives it."""

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
        """Removes the sets that were sent over a day ago, but for those in use."""
        for made in self.folder.glob("*"):
            if made.name not in used and time.time() - _modified(made) > UNUSED:
                shutil.rmtree(made, ignore_errors=True)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # another request has removed it
        return 0.0
