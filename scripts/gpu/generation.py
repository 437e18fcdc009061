"""How fast images are made at true shape, against diffusers' own pipeline, both warm in one process."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from lab.models.bundle import Bundle
from lab.models.unet import call_unet
from scripts.gpu.shapes import fresh_unet, random_bundle
from scripts.gpu.stand import Found, Stand, images_of, worst_psnr

PROMPT = "a noto emoji of a red apple on a white background"

Images = list[Image.Image]


@dataclass(frozen=True)
class Plan:
    """What is made at a shape: batches of images, denoising steps, and rounds that are timed."""

    family: str
    batches: tuple[int, ...]
    steps: int
    rounds: int


SD15 = Plan("sd1", (1, 4), 20, 2)
SDXL = Plan("sdxl", (1, 4), 8, 2)
COMPILED_SD15 = Plan("sd1", (4,), 20, 2)
COMPILED_SDXL = Plan("sdxl", (1,), 8, 2)


def sd15(stand: Stand, found: Found) -> None:
    """SD 1.5's shape."""
    _eager(stand, found, SD15)


def sdxl(stand: Stand, found: Found) -> None:
    """SDXL's shape."""
    _eager(stand, found, SDXL)


def compiled_sd15(stand: Stand, found: Found) -> None:
    """SD 1.5's shape, compiled."""
    _compiled(stand, found, COMPILED_SD15)


def compiled_sdxl(stand: Stand, found: Found) -> None:
    """SDXL's shape, compiled."""
    _compiled(stand, found, COMPILED_SDXL)


def _eager(stand: Stand, found: Found, plan: Plan) -> None:
    """The lab against diffusers' pipeline around the same modules, and around copies wholly in half precision."""
    bundle = random_bundle(stand, plan.family)
    pipelines = {"diffusers": bundle.pipeline(), "diffusers, all in half": _half(bundle)}
    for count in plan.batches:
        steps = stand.pick(plan.steps, 2)
        sides: dict[str, Callable[[], Images]] = {"lab": _ours(bundle, count, steps)}
        sides |= {name: _theirs(bundle, pipeline, count, steps) for name, pipeline in pipelines.items()}
        took = stand.take_turns(sides, stand.pick(plan.rounds, 1))
        both = took["lab"].result, took["diffusers"].result
        found.note(f"{count} x, images of both sides, dB", worst_psnr(*both))
        for name, each in took.items():
            found.note(f"{count} x, {name}, images/s", count / each.seconds)
            found.note(f"{count} x, {name}, peak GiB more", each.peak)
        for name in pipelines:
            ratio = took[name].seconds / took["lab"].seconds
            found.aim(f"{count} x, the lab's speed by {name}", ratio, least=1.0)


def _compiled(stand: Stand, found: Found, plan: Plan) -> None:
    """Compiled and not, by the lab and by diffusers' pipeline around one U-Net, which is compiled once for both."""
    (count,), steps = plan.batches, stand.pick(plan.steps, 2)
    sides: dict[str, Callable[[], Images]] = {}
    for label, options in (("", {}), (" compiled", {"compile": True})):
        bundle = random_bundle(stand, plan.family, **options)
        pipeline = bundle.pipeline()
        if options:
            pipeline.__dict__["unet"] = _SameCall(bundle.unet)
        sides[f"lab{label}"] = _ours(bundle, count, steps)
        sides[f"diffusers{label}"] = _theirs(bundle, pipeline, count, steps)
    for name, side in sides.items():
        found.note(f"{name}, first call, s", stand.timed(side).seconds)
    took = stand.take_turns(sides, stand.pick(plan.rounds, 1))
    for name, each in took.items():
        found.note(f"{name}, images/s", count / each.seconds)
    both = took["lab"].result, took["lab compiled"].result
    found.note("the lab's images, compiled and not, dB", worst_psnr(*both))
    seconds = {name: each.seconds for name, each in took.items()}
    ratio = seconds["diffusers compiled"] / seconds["lab compiled"]
    found.aim("the lab's speed by diffusers', both compiled", ratio, least=0.95)
    gains = {side: seconds[side] / seconds[f"{side} compiled"] for side in ("lab", "diffusers")}
    found.note("what compiling brings diffusers", gains["diffusers"])
    found.aim("what compiling brings the lab, by that", gains["lab"] / gains["diffusers"], least=1.0)


class _SameCall:
    """A U-Net that a pipeline calls as the lab calls it: of another call, one would wait for another compilation."""

    def __init__(self, unet: Any):
        self._unet = unet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unet, name)

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        **_: Any,
    ) -> tuple[Tensor]:
        more = added_cond_kwargs or {}
        texts = encoder_hidden_states, more.get("text_embeds"), more.get("time_ids")
        return (call_unet(self._unet, sample, timestep, *texts),)


def _ours(bundle: Bundle, count: int, steps: int) -> Callable[[], Images]:
    settings: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": "", "steps": steps}
    return lambda: images_of(bundle, seeds=f"1-{count}" if count > 1 else "1", **settings)


def _theirs(bundle: Bundle, pipeline: DiffusionPipeline, count: int, steps: int) -> Callable[[], Images]:
    @torch.inference_mode()  # as the lab's: tensors of another kind are compiled for anew
    def side() -> Images:
        return pipeline(
            [PROMPT] * count,
            negative_prompt=[""] * count,
            generator=[torch.Generator("cpu").manual_seed(seed + 1) for seed in range(count)],
            num_inference_steps=steps,
            guidance_scale=bundle.defaults.guidance,
            width=bundle.defaults.width,
            height=bundle.defaults.height,
        ).images

    return side


def _half(bundle: Bundle) -> DiffusionPipeline:
    """The pipeline as someone loads it with `torch_dtype`: text encoders and VAE in the U-Net's precision too."""
    pipeline = bundle.pipeline()
    parts = {
        name: copy.deepcopy(part).to(bundle.dtype)
        if name in ("vae", "text_encoder", "text_encoder_2")
        else part
        for name, part in pipeline.components.items()
    }
    unet = fresh_unet(bundle.unet.config, bundle.device, bundle.dtype)
    unet.load_state_dict(bundle.unet.state_dict())
    parts |= {"unet": unet, **bundle.traits.pipeline_options}
    twin = type(pipeline)(**parts)
    twin.set_progress_bar_config(disable=True)
    return twin
