"""The schedulers offered: one table of what each is, and which of them work with which model."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Scheduler:
    """One offered scheduler.

    Attributes:
        class_name: The diffusers class.
        a1111: What the A1111 web UI calls it.
        settings: What it is set to on top of the model's own scheduler config.
        karras: Karras sigmas can be used.
        calls: How many calls of the U-Net the web UI counts for a step, which is what schedules in prompts go by.
        zero_snr: It rescales its betas to zero terminal SNR, so it can start from pure noise.
    """

    class_name: str
    a1111: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    karras: bool = False
    calls: int = 1
    zero_snr: bool = True


SCHEDULERS: dict[str, Scheduler] = {
    "ddim": Scheduler("DDIMScheduler", "DDIM"),
    "pndm": Scheduler("PNDMScheduler", "PLMS", {"skip_prk_steps": True}, zero_snr=False),
    "euler": Scheduler("EulerDiscreteScheduler", "Euler", karras=True),
    "euler-a": Scheduler("EulerAncestralDiscreteScheduler", "Euler a"),
    "heun": Scheduler("HeunDiscreteScheduler", "Heun", karras=True, calls=2, zero_snr=False),
    "dpm++2m": Scheduler(
        "DPMSolverMultistepScheduler", "DPM++ 2M", {"algorithm_type": "dpmsolver++"}, karras=True
    ),
    "dpm++2m-sde": Scheduler(
        "DPMSolverMultistepScheduler", "DPM++ 2M SDE", {"algorithm_type": "sde-dpmsolver++"}, karras=True
    ),
    "unipc": Scheduler("UniPCMultistepScheduler", "UniPC", karras=True),
    "lcm": Scheduler("LCMScheduler", "LCM"),
}

USUAL = "ddim"
"""What a model is sampled with that was saved with a scheduler that is not offered."""


def scheduler_name(config: Mapping[str, Any]) -> str:
    """The name of the scheduler that a model was saved with, from its config: `USUAL` where it is not offered.

    Of several entries of one class, it is the one whose settings the config has, or else the first.
    """
    saved = [name for name, entry in SCHEDULERS.items() if entry.class_name == config.get("_class_name")]
    exact = [name for name in saved if SCHEDULERS[name].settings.items() <= config.items()]
    return next(iter([*exact, *saved]), USUAL)


def check_scheduler(name: str, karras: bool, config: Mapping[str, Any]) -> None:
    """Refuses combinations of scheduler, sigmas and model that cannot work.

    Args:
        config: The model's own scheduler config.

    Raises:
        InputError: unknown scheduler (with the nearest names), or a combination that cannot work (with the reason).
    """
    if name not in SCHEDULERS:
        raise InputError(f"unknown scheduler '{name}'{did_you_mean(name, SCHEDULERS)}")
    chosen = SCHEDULERS[name]
    zero_snr = config.get("rescale_betas_zero_snr", False)
    if zero_snr and not chosen.zero_snr:
        fitting = [other for other, entry in SCHEDULERS.items() if entry.zero_snr]
        raise InputError(
            f"scheduler '{name}' does not rescale its betas, and this model was trained at zero terminal SNR, "
            f"so its images would be wrong; use one of {', '.join(fitting)}"
        )
    if karras and not chosen.karras:
        with_karras = [other for other, entry in SCHEDULERS.items() if entry.karras]
        raise InputError(f"scheduler '{name}' has no Karras sigmas; these have: {', '.join(with_karras)}")
    if karras and zero_snr:
        raise InputError(
            "Karras sigmas crowd the first steps at zero terminal SNR, where sigma is unbounded; "
            "leave out --karras for this model"
        )


def make_scheduler(name: str, karras: bool, config: Mapping[str, Any], steps: int) -> Any:
    """A fresh diffusers scheduler with its timesteps set: it keeps state, so every batch gets its own.

    Timesteps and tables are on the CPU, wherever latents are: schedulers look up one by the other, and a look-up by
    a GPU's number waits for the GPU.

    Raises:
        InputError: the scheduler cannot make this number of steps.
    """
    import diffusers

    chosen = SCHEDULERS[name]
    settings = {**chosen.settings, **({"use_karras_sigmas": True} if karras else {})}
    kind = getattr(diffusers, chosen.class_name)
    known = inspect.signature(kind.__init__).parameters  # diffusers prints a line about any other
    told = {key: value for key, value in config.items() if key in known or key.startswith("_")}
    scheduler = kind.from_config(told, **settings)
    try:
        scheduler.set_timesteps(steps, device="cpu")
    except ValueError as error:
        raise InputError(f"scheduler '{name}' cannot make {steps} steps: {error}") from None
    known_to_model = scheduler.config.num_train_timesteps
    if float(scheduler.timesteps.max()) >= known_to_model:
        raise InputError(
            f"scheduler '{name}' cannot make {steps} steps: with the model's steps_offset the first is past the "
            f"{known_to_model} timesteps that the model knows; use fewer steps, or another --scheduler"
        )
    return scheduler
