"""From a `Bundle` to the diffusers pipeline with the same modules."""

from typing import Any

import diffusers

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.libraries import quiet


def build_pipeline(bundle: Bundle) -> diffusers.DiffusionPipeline:
    """The family's text-to-image pipeline around the bundle's modules, without safety checker and watermark.

    Raises:
        InputError: the model's scheduler is of a class that diffusers does not have.
    """
    traits = bundle.traits
    parts: dict[str, Any] = {"unet": bundle.unet, "vae": bundle.vae, "scheduler": model_scheduler(bundle)}
    for suffix, tower in zip(traits.suffixes, bundle.towers, strict=True):
        parts |= {f"tokenizer{suffix}": tower.tokenizer, f"text_encoder{suffix}": tower.encoder}
    if traits.zeros_without_negative:
        parts["force_zeros_for_empty_prompt"] = bundle.force_zeros_for_empty_prompt
    with quiet():
        pipeline = getattr(diffusers, traits.pipeline)(**parts, **traits.pipeline_options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def model_scheduler(bundle: Bundle) -> diffusers.SchedulerMixin:
    """A fresh scheduler of the class and settings that the model was saved with.

    Raises:
        InputError: diffusers has no such class.
    """
    name = str(bundle.scheduler_config.get("_class_name", "DDIMScheduler"))
    kind: Any = getattr(diffusers, name, None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known:
        raise InputError(
            f"{bundle.source}: its scheduler '{name}' is none that diffusers has; fix its scheduler_config.json"
        )
    return kind.from_config(dict(bundle.scheduler_config))
