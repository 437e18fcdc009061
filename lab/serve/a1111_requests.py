"""What programs ask of the A1111 web UI's API, as the lab's own settings. What the lab cannot do is refused, never
passed over."""

import base64
import binascii
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from PIL import Image
from pydantic import ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from lab.config import Config
from lab.errors import InputError, did_you_mean
from lab.images import load_image, on_ground
from lab.sample.config import MAX_SEED
from lab.serve.a1111_lists import OPTIONS, find_sampler
from lab.serve.bounds import MOST_PIXELS_SENT, following_seeds
from lab.serve.service import Service

_NOT_HERE = {
    "enable_hr": "there is no second pass; ask for the size that you want",
    "firstpass_image": "there is no second pass; use img2img",
    "mask": "inpainting takes a model that was made for it; leave it out",
    "latent_mask": "inpainting takes a model that was made for it; leave it out",
    "restore_faces": "there is no model that restores faces; send false",
    "tiling": "images that tile are not made; send false",
    "refiner_checkpoint": "one model is served; leave it out",
    "styles": "there are none; write the words into the prompt",
    "infotext": "settings are read from the fields themselves; send those",
    "script_name": "there are no scripts; leave it out",
    "subseed_strength": "noise is of one seed; send 0",
    "seed_resize_from_h": "noise is of the image's own size; send 0",
    "seed_resize_from_w": "noise is of the image's own size; send 0",
    "s_churn": "samplers are as published; send 0",
    "s_min_uncond": "the negative prompt counts at every step; send 0",
    "s_noise": "samplers are as published; send 1",
    "initial_noise_multiplier": "noise is of the strength that the steps ask for; send 1",
}
"""Fields that ask for what the lab does not do, unless they ask for nothing; and what to do about it."""

_NOTHING: dict[str, tuple[Any, ...]] = {
    "s_noise": (1,),
    "initial_noise_multiplier": (1,),
    "seed_resize_from_h": (-1,),
    "seed_resize_from_w": (-1,),
    "refiner_checkpoint": ("None",),
    "script_name": ("None",),
}
"""What asks for nothing, beside null, false, 0 and what is empty."""

_NOISES = {"ddim": (0, 1), "euler-a": (1,), "dpm++2m-sde": (1,)}
"""What `eta` may be where it means something. DDIM adds no noise, and yet 1 is taken for it: webuiapi sends that with
everything, for whatever sampler."""

_OF_WHAT_IS_OFF = frozenset(
    """firstphase_width firstphase_height mask_blur mask_blur_x mask_blur_y mask_round inpainting_fill
    inpaint_full_res inpaint_full_res_padding inpainting_mask_invert image_cfg_scale distilled_cfg_scale subseed
    seed_enable_extras refiner_switch_at script_args s_tmin s_tmax do_not_save_samples do_not_save_grid
    do_not_reload_embeddings disable_extra_networks denoising_strength force_task_id url auth""".split()
)
"""Fields that say more about what was not asked for, or that the web UI's API itself passes over; and the address and
password with which SillyTavern tells its own server where to send the rest. So do all that begin with `hr_`."""


class TextToImage(Config):
    """Images to be made, in the web UI's fields. What is left out, or null, is the model's own default. Fields that are
    not listed are taken where they ask for nothing."""

    model_config = ConfigDict(extra="allow")

    prompt: str = ""
    """What the images show, in the a1111 dialect; learned embeddings are found by their bare names too."""

    negative_prompt: str = ""
    """What they avoid."""

    seed: int = Field(-1, ge=-1, le=MAX_SEED)
    """The first image's seed, which the others' follow; -1 for one that nobody knows before."""

    steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps."""

    cfg_scale: float | None = Field(None, ge=0, le=100)
    """Guidance scale."""

    width: int | None = Field(None, ge=8, le=8192)
    """Pixels."""

    height: int | None = Field(None, ge=8, le=8192)
    """Pixels."""

    sampler_name: str | None = None
    """One of `/sdapi/v1/samplers`, such as `Euler a`; `DPM++ 2M Karras` names both sampler and scheduler."""

    sampler_index: str | None = None
    """The same, as older clients say it."""

    scheduler: str | None = None
    """`Automatic` for noise levels at even steps of time, or `Karras`."""

    eta: float | None = None
    """The noise that a sampler adds, which cannot be set: 0 for DDIM, 1 for `Euler a` and `DPM++ 2M SDE`. DDIM passes
    over 1, which webuiapi sends with everything."""

    batch_size: int = Field(1, ge=1, le=10_000)
    """Images of an iteration."""

    n_iter: int = Field(1, ge=1, le=10_000)
    """Iterations, which `skip` ends one by one."""

    clip_skip: int | None = Field(None, ge=1, le=12)
    """The text encoder's last layer that counts, as `CLIP_stop_at_last_layers` among the override settings says it."""

    override_settings: dict[str, Any] = Field(default_factory=dict)
    """Options (`/sdapi/v1/options`) for this request alone."""

    override_settings_restore_afterwards: bool = True
    """False keeps them for the client's later requests."""

    alwayson_scripts: dict[str, Any] = Field(default_factory=dict)
    """There are none: what is switched on is refused."""

    send_images: bool = True
    """Whether the answer holds the images."""

    save_images: bool = False
    """Whether the server keeps them as well, in the folder `saved` of its `--out`."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            return fields
        return {name: value for name, value in fields.items() if value is not None}

    @model_validator(mode="after")
    def _can_be_repeated(self) -> Self:
        try:
            json.dumps(self.echo(), allow_nan=False)
        except (ValueError, RecursionError):
            raise ValueError(
                "a value holds an infinite number, half a character, or too much within each other"
            ) from None
        return self

    @property
    def count(self) -> int:
        """How many images."""
        return self.batch_size * self.n_iter

    def check(self) -> None:
        """Refuses what the lab does not do.

        Raises:
            HTTPException: 501, with what to do about it.
            InputError: a field that the web UI does not have either.
        """
        known = {*type(self).model_fields, *_NOT_HERE, *_OF_WHAT_IS_OFF}
        for name, value in (self.model_extra or {}).items():
            asks = bool(value) and value not in _NOTHING.get(name, ())
            if name in _NOT_HERE and asks:
                raise HTTPException(501, f"{name}: {_NOT_HERE[name]}")
            if name in OPTIONS and asks:
                raise InputError(f"{name}: is an option; send it among the override_settings")
            if name not in known and asks and not name.startswith("hr_"):
                raise InputError(f"{name[:50]}: there is no such field{did_you_mean(name[:50], known)}")
        for name, script in self.alwayson_scripts.items():
            args = script.get("args", ()) if isinstance(script, Mapping) else [script]
            if any(args) if isinstance(args, list) else args:
                raise HTTPException(501, f"alwayson_scripts: there is no {name[:50]}; leave it out")

    def seeds(self) -> range:
        """The images' seeds.

        Raises:
            InputError: they go beyond the largest.
        """
        return following_seeds(None if self.seed == -1 else self.seed, self.count)

    def lab_settings(self, service: Service, clip_skip: int) -> dict[str, Any]:
        """What is asked for, as `GenerateConfig` takes it, but for the seeds.

        Args:
            clip_skip: As the web UI counts: 1 for the last layer.

        Raises:
            HTTPException: 404, there is no such sampler or scheduler; 501, its noise cannot be set.
        """
        scheduler, karras = find_sampler(self.sampler_name or self.sampler_index, self.scheduler)
        noises = _NOISES.get(scheduler or service.bundle.defaults.scheduler)
        if noises and self.eta is not None and self.eta not in noises:
            raise HTTPException(
                501, f"eta: {self.eta:g} cannot be set here; send {noises[0]}, or leave it out"
            )
        chosen = {
            "steps": self.steps,
            "guidance": self.cfg_scale,
            "width": self.width,
            "height": self.height,
            "scheduler": scheduler,
        }
        given = {name: value for name, value in chosen.items() if value is not None}
        texts = {"prompt": self.prompt, "negative_prompt": self.negative_prompt, "bare_names": True}
        return texts | given | {"dialect": "a1111", "karras": karras, "clip_skip": clip_skip - 1}

    def echo(self) -> dict[str, Any]:
        """The request as the answer repeats it, without images and passwords."""
        return self.model_dump(mode="json", exclude={"init_images", "mask", "auth", "url"})


class ImageToImage(TextToImage):
    """Images that begin from an image instead of from noise alone."""

    init_images: list[str] = Field(default_factory=list)
    """The one image, as base64, with `data:image/png;base64,` before it or without."""

    resize_mode: int = Field(0, ge=0, le=3)
    """0 stretches it to the size asked for; 1 scales it to cover the size and cuts."""

    denoising_strength: float = Field(0.75, gt=0, le=1)
    """The share of the denoising steps that is run."""

    include_init_images: bool = False
    """Whether `parameters` repeats the image."""

    def check(self) -> None:
        """Also refuses other ways of resizing, and other numbers of images than one."""
        super().check()
        if not self.init_images:
            raise HTTPException(404, "Init image not found; send one in init_images")
        if len(self.init_images) > 1:
            raise HTTPException(501, "init_images: one is taken; send a request for each")
        if self.resize_mode > 1:
            raise HTTPException(501, f"resize_mode: {self.resize_mode} is not done; send 0 or 1")

    def lab_settings(self, service: Service, clip_skip: int) -> dict[str, Any]:
        """Also the image as a file of the server's, and how much of it is changed.

        Raises:
            InputError: it cannot be read, or has too many pixels.
        """
        begin = {"init_image": self._kept(service), "strength": self.denoising_strength}
        return super().lab_settings(service, clip_skip) | begin

    def _kept(self, service: Service) -> Path:
        data = decode_image(self.init_images[0], "init_images")
        image = load_image(Path("init_images"), data, MOST_PIXELS_SENT)
        own = service.bundle.defaults
        width, height = self.width or own.width, self.height or own.height
        if self.resize_mode == 0 and image.width * height != image.height * width:
            if width * height > service.config.max_pixels:
                raise InputError(f"width: {width}x{height} is over {service.config.max_pixels:,} pixels")
            file = BytesIO()
            on_ground(image).resize((width, height), Image.Resampling.LANCZOS).save(file, "PNG")
            data = file.getvalue()
        return service.images.take(data)

    def echo(self) -> dict[str, Any]:
        """Also the image, if it shall."""
        images = self.init_images if self.include_init_images else None
        return super().echo() | {"init_images": images}


def decode_image(text: str, field: str) -> bytes:
    """The bytes of an image that was sent as base64, with the head of a data URL or without.

    Raises:
        InputError: it is an address, or no base64.
    """
    text = text.strip()
    if text.startswith(("http://", "https://")):
        raise InputError(f"{field}: is an address, and the server fetches nothing; send the image as base64")
    try:
        return base64.b64decode(text.rpartition(",")[2] if text.startswith("data:") else text)
    except (binascii.Error, ValueError):
        raise InputError(f"{field}: not an image in base64") from None
