"""The options of the server, each defined once, and which of the lab's own options its clients may set."""

import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, create_model, model_validator

from lab.config import Config, ExistingPath, NewPath
from lab.models.config import ModelOptions
from lab.sample.config import GenerateConfig


def _checked_network(address: str) -> str:
    try:
        ipaddress.ip_network(address, strict=False)
    except ValueError:
        raise ValueError(f"'{address}' is no address; write 10.0.0.5 or 10.0.0.0/8") from None
    return address


_CALLED = {"jobs": "its folder", "sets": "your set", "page": "your images"}
"""What clients call the folders of a job, of images to learn from, and of a browser's history."""


class ServeOptions(Config):
    """Where the server listens, for whom, and how much a request may ask of it."""

    host: str = "127.0.0.1"
    """The address to listen on; one that other machines reach needs a key."""

    port: int = Field(7860, ge=0, le=65535)
    """The port to listen on; 0 for any that is free."""

    api_key: str | None = Field(None, min_length=1)
    """What clients must send as a bearer token. A browser asks for it: the key is the password, with any user name.
    Also read from the environment's LAB_API_KEY, which other users of the machine cannot see."""

    embeddings: list[ExistingPath] = Field(default_factory=list)
    """A file or folder of learned embeddings that clients' texts may name, repeatable; there are no others."""

    out: NewPath = Path("outputs", "serve")
    """Folder for what clients send and have made. Of images that were sent, and of those asked for as URLs, it holds
    the newest thousand; jobs, images to be saved and the page's stay until somebody deletes them."""

    allow_host: list[str] = Field(default_factory=list)
    """A name by which clients call the server, beside this machine's own and addresses, such as that of a proxy;
    repeatable."""

    allow_origin: list[str] = Field(default_factory=list)
    """A page that may send requests, as https://name, beside the server's own; repeatable."""

    allow_proxy: list[Annotated[str, AfterValidator(_checked_network)]] = Field(default_factory=list)
    """The address of a proxy (or 10.0.0.0/8) that is believed for whom it asks (X-Forwarded-For), so that its clients
    take turns and do not stop each other's work; repeatable. One on this machine always is."""

    page: bool = True
    """Shows a page to play on at /, where Gradio is installed."""

    max_images: int = Field(16, ge=1)
    """The most images of one request."""

    max_steps: int = Field(150, ge=1)
    """The most denoising steps of one image."""

    max_pixels: int = Field(2048 * 2048, ge=64)
    """The most pixels of one image."""

    max_waiting: int = Field(256, ge=1)
    """The most images that wait; a request beyond them is told to come back later (429)."""

    max_body: int = Field(32, ge=1)
    """The largest request (MiB)."""

    max_upload: int = Field(256, ge=1)
    """The largest request that sends images to learn from (MiB), where that is more than --max-body."""

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def without_places(self, text: str, *files: Path) -> str:
        """A message as clients may read it: what is in the server's folder or among its embeddings goes by the name
        that they know it by, wherever it lies on this machine.

        Args:
            files: Others of which the message may speak, such as one that was dropped on the page.
        """
        for out in (self.out.absolute(), self.out):
            own = rf"(?<![\w/.-]){re.escape(str(out))}/({'|'.join(_CALLED)})/\w+(?:/run)?(/?)"
            text = re.sub(own, lambda found: "" if found[2] else _CALLED[found[1]], text)
        folders = {self.out, *self.embeddings, *(file.parent for file in (*self.embeddings, *files))}
        folders |= {folder.absolute() for folder in folders}
        for folder in sorted((folder for folder in folders if folder.name), reverse=True):
            place = rf"(?<![\w/.-]){re.escape(str(folder))}"
            text = re.sub(rf"{place}/", "", text)
            text = re.sub(rf"{place}(?![\w-])", folder.name.replace("\\", r"\\"), text)
        return text

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        if self.api_key is None and not self.is_local:
            raise ValueError(
                f"host: {self.host or 'every address'} can be reached from other machines; give --api-key as well, "
                "or listen on 127.0.0.1"
            )
        return self


class ServeConfig(ServeOptions, ModelOptions):
    """One server."""


_SAMPLING = ("steps", "guidance", "guidance_rescale", "guidance_interval", "scheduler", "karras", "strength")
_SIZES = ("original_width", "original_height", "crop_left", "crop_top")
_TEXT = ("dialect", "weighting", "clip_skip", "bare_names", "comma_backtrack", "keep_words", "knock_out")

CLIENTS_SET = ("negative_prompt", *_SAMPLING, *_SIZES, *_TEXT)
"""The options of `GenerateConfig` that a client may set beside prompt, seeds and size: none of them opens a file."""


def fields_of(config: type[Config], names: Iterable[str]) -> dict[str, Any]:
    """Fields of a config class as `pydantic.create_model` takes them: what is defined once serves another class."""
    return {name: (config.model_fields[name].annotation, config.model_fields[name]) for name in names}


if TYPE_CHECKING:  # a type checker reads no tables

    class _ClientsSet(Config):
        """The options in `CLIENTS_SET`."""
else:
    _ClientsSet = create_model("_ClientsSet", __base__=Config, **fields_of(GenerateConfig, CLIENTS_SET))


class LabSettings(_ClientsSet):
    """The lab's own settings in a request for images."""

    embeddings: list[str] | None = None
    """Names of served embeddings, of which texts may then name no others."""

    def lab_settings(self) -> dict[str, Any]:
        """Those that were set, as `GenerateConfig` takes them."""
        return {name: value for name, value in self.given().items() if name in CLIENTS_SET}
