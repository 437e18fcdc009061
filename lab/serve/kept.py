"""Images that the server keeps for its clients until there are many newer ones: those that they sent, and those that
they asked for as URLs. What else is in its folder they asked to be made, and it stays."""

import hashlib
import os
import re
import secrets
from pathlib import Path

from starlette.exceptions import HTTPException

from lab.files import atomic
from lab.images import load_image
from lab.serve.bounds import MOST_PIXELS_SENT
from lab.serve.config import ServeOptions

MOST_KEPT = 1000
"""Images that clients sent, and images that they asked for as URLs, beside those that may be waited for."""

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


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # another request has removed it
        return 0.0
