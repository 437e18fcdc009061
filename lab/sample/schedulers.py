"""The schedulers offered, and which of them work with which model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import diffusers

from lab.errors import InputError, did_you_mean


@dataclass(frozen=True)
class SchedulerKind:
    """One offered scheduler.

    Attributes:
        class_name: The diffusers class.
        settings: What it is set to on top of the model's own scheduler config.
        karras: Karras sigmas can be used.
        zero_snr: It rescales its betas to zero terminal SNR, so it can start from pure noise.
    """

    class_name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    karras: bool = False
    zero_snr: bool = True

    @cached_property
    def scheduler_class(self) -> Any:
        """The diffusers class, imported when first asked for."""
        return getattr(diffusers, self.class_name)


SCHEDULERS = {
    "ddim": SchedulerKind("DDIMScheduler"),
    "pndm": SchedulerKind("PNDMScheduler", {"skip_prk_steps": True}, zero_snr=False),
    "euler": SchedulerKind("EulerDiscreteScheduler", karras=True),
    "euler-a": SchedulerKind("EulerAncestralDiscreteScheduler"),
    "heun": SchedulerKind("HeunDiscreteScheduler", karras=True, zero_snr=False),
    "dpm++2m": SchedulerKind("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}, karras=True),
    "dpm++2m-sde": SchedulerKind(
        "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, karras=True
    ),
    "unipc": SchedulerKind("UniPCMultistepScheduler", karras=True),
    "lcm": SchedulerKind("LCMScheduler"),
}


def check_scheduler(name: str, karras: bool, config: Mapping[str, Any]) -> None:
    """Refuses combinations of scheduler, sigmas and model that cannot work.

    Raises:
        InputError: unknown scheduler (with the nearest names), or a combination that cannot work (with the reason).
    """
    if name not in SCHEDULERS:
        raise InputError(f"unknown scheduler '{name}'{did_you_mean(name, SCHEDULERS)}")
    kind = SCHEDULERS[name]
    zero_snr = config.get("rescale_betas_zero_snr", False)
    fitting = [other for other, candidate in SCHEDULERS.items() if candidate.zero_snr]
    if zero_snr and not kind.zero_snr:
        raise InputError(
            f"scheduler '{name}' does not rescale its betas, and this model was trained at zero terminal SNR, "
            f"so its images would be wrong; use one of {', '.join(fitting)}"
        )
    if karras and not kind.karras:
        with_karras = [other for other, candidate in SCHEDULERS.items() if candidate.karras]
        raise InputError(f"scheduler '{name}' has no Karras sigmas; these have: {', '.join(with_karras)}")
    if karras and zero_snr:
        raise InputError(
            "Karras sigmas crowd the first steps at zero terminal SNR, where sigma is unbounded; "
            "leave out --karras for this model"
        )


def make_scheduler(name: str, karras: bool, config: Mapping[str, Any], steps: int, device: Any) -> Any:
    """A fresh diffusers scheduler with its timesteps set: it keeps state, so every batch gets its own.

    Raises:
        InputError: the scheduler cannot make this number of steps.
    """
    kind = SCHEDULERS[name]
    settings = {**kind.settings, **({"use_karras_sigmas": True} if karras else {})}
    scheduler = kind.scheduler_class.from_config(dict(config), **settings)
    try:
        scheduler.set_timesteps(steps, device=device)
    except ValueError as error:
        raise InputError(f"scheduler '{name}' cannot make {steps} steps: {error}") from None
    return scheduler
