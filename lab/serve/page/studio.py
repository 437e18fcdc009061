"""What the page does, without the page: images under way and those that were made, kept in the server's folder."""

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from starlette.exceptions import HTTPException

from lab.errors import InputError
from lab.images import text_chunks
from lab.runs.png import CHUNK, read_parameters, read_record, record_beside
from lab.sample.config import GenerateConfig
from lab.sample.record import save_result
from lab.sample.settings import resolve_settings
from lab.serve.a1111_lists import find_sampler
from lab.serve.config import CLIENTS_SET
from lab.serve.service import Finished, PictureOrder, Service

FORM = (
    *("prompt", "negative_prompt", "seed", "steps", "guidance", "scheduler", "karras", "width", "height"),
    *("dialect", "weighting", "clip_skip"),
)
"""What of an image's record the page has a field for."""

BESIDE = (
    *("init_image", "controlnet", "embeds", "negative_embeds"),
    *("negative_method", "negative_strength", "negative_interval"),
    *(name for name in CLIENTS_SET if name not in FORM and not name.startswith(("original_", "crop_"))),
)
"""What else may have made an image."""

A1111: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Seed": ("seed", int),
    "Steps": ("steps", int),
    "CFG scale": ("guidance", float),
    "Size-1": ("width", int),
    "Size-2": ("height", int),
    "Clip skip": ("clip_skip", lambda text: int(text) - 1),
}
"""The web UI's names for numbers of the form, and how they are read."""

SHOWN = 60
"""Images of the history that the page shows, the newest."""


@dataclass(frozen=True)
class Shot:
    """An image that was made on the page."""

    file: Path
    record: dict[str, Any]


class Making:
    """Images under way. Whoever follows them may go away and come back; they are made and kept all the same."""

    def __init__(self, folder: Path):
        self.browser = folder.name
        self._folder = folder
        self._stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}"
        self._listeners: list[SimpleQueue[Any]] = []
        self.order: PictureOrder | None = None

    def tell(self, event: Any) -> None:
        """Hears from the lane, and keeps what is finished before anyone hears of it."""
        if isinstance(event, Finished):
            picture = event.picture
            name = f"{self._stamp}-{event.place:03d}-seed{picture.record['seed']}.png"
            save_result(self._folder / name, picture.image, picture.record)
        for listener in list(self._listeners):
            listener.put(event)

    def follow(self) -> Iterator[Any]:
        """What happens from now on, until all is made, or something went wrong.

        Raises:
            Exception: what went wrong.
        """
        assert self.order is not None
        heard: SimpleQueue[Any] = SimpleQueue()
        self._listeners.append(heard)
        self.order.future.add_done_callback(heard.put)
        try:
            while (event := heard.get()) is not self.order.future:
                yield event
            if not self.order.future.cancelled():
                self.order.future.result()
        finally:
            self._listeners.remove(heard)


class Studio:
    """Makes images for browsers that look at the page, and remembers whose they are: each has a folder of its own,
    under a name that it alone knows."""

    def __init__(self, service: Service):
        self.service = service
        self.folder = service.config.out.absolute() / "page"
        self._under_way: dict[str, Making] = {}

    def _own(self, browser: str | None) -> Path:
        if browser is None or not re.fullmatch(r"[0-9a-f]{32}", browser):
            raise InputError("the page has not loaded yet; try again in a moment")
        return self.folder / browser

    @property
    def usual(self) -> dict[str, Any]:
        """What the model is sampled with where nothing else is said, and how its texts are read."""
        config = GenerateConfig()
        sampled = resolve_settings(self.service.bundle.facts, config).record()
        text = {"dialect": config.dialect, "weighting": config.weighting_used, "clip_skip": config.clip_skip}
        return sampled | text

    def make(self, browser: str | None, settings: Mapping[str, Any]) -> Making:
        """Queues images for a browser.

        Args:
            settings: Of `GenerateConfig`.

        Raises:
            InputError, BusyError: see `Service.order_pictures`.
        """
        making = Making(self._own(browser))
        making.order = self.service.order_pictures(browser, settings, tell=making.tell, previews=2)
        self._under_way[making.browser] = making
        making.order.future.add_done_callback(lambda _: self._ended(making))
        return making

    def _ended(self, making: Making) -> None:
        if self._under_way.get(making.browser) is making:
            del self._under_way[making.browser]

    def under_way(self, browser: str | None) -> Making | None:
        """What is being made for a browser, if anything is."""
        return self._under_way.get(browser or "")

    def stop(self, browser: str | None) -> None:
        """Ends what is being made for a browser; finished images stay."""
        if (making := self.under_way(browser)) and making.order:
            making.order.cancel()

    def history(self, browser: str | None) -> list[Shot]:
        """The images that were made for a browser, the newest first.

        Raises:
            InputError: no name of a browser, or a record that was damaged.
        """
        files = sorted(self._own(browser).glob("*.png"), reverse=True)[:SHOWN]
        return [Shot(file, record_beside(file)) for file in files]

    def forget(self, browser: str | None) -> None:
        """Removes the images that were made for a browser.

        Raises:
            InputError: no name of a browser.
        """
        self.stop(browser)
        shutil.rmtree(self._own(browser), ignore_errors=True)

    def settings_in(self, file: Path) -> tuple[dict[str, Any], str]:
        """The values of the form that are in an image of the lab's or of A1111's, and what of its settings has no place
        in the form, in words.

        Raises:
            InputError: there are none in it.
        """
        chunks = text_chunks(file)
        if CHUNK in chunks:
            record = read_record(file)
            left = [name for name in BESIDE if record.get(name) not in (None, 0, False, self.usual.get(name))]
            return settings_of(record), f"It was made with {', '.join(left)} too." if left else ""
        if "parameters" not in chunks:
            raise InputError(f"{file.name}: carries no settings; drop an image as the lab or A1111 saved it")
        return _of_a1111(read_parameters(chunks["parameters"]), file.name)


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the form that an image's record has."""
    return {name: record[name] for name in FORM if name in record}


def _of_a1111(parts: Mapping[str, str], name: str) -> tuple[dict[str, Any], str]:
    """Likewise from the web UI's names."""
    found: dict[str, Any] = {"prompt": parts["Prompt"], "negative_prompt": parts["Negative prompt"]}
    found |= {"dialect": "a1111"}
    try:
        for key, (own, read) in A1111.items():
            if key in parts:
                found[own] = read(parts[key])
    except ValueError:
        raise InputError(f"{name}: its '{key}' is no number: '{parts[key][:40]}'") from None
    try:
        scheduler, karras = find_sampler(parts.get("Sampler"), parts.get("Schedule type"))
    except HTTPException as error:
        return found, str(error.detail)
    return found | ({"scheduler": scheduler, "karras": karras} if scheduler else {}), ""
