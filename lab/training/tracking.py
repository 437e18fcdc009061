"""Trackers: where else a run's numbers go, through Accelerate."""

from collections.abc import Mapping, Sequence

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from lab.errors import InputError, did_you_mean
from lab.training.config import TrainConfig
from lab.training.recipe import recipe


def check_trackers(names: Sequence[str]) -> None:
    """Checks that trackers can be had.

    Raises:
        InputError: one that Accelerate does not know, with the nearest names, or whose package is not installed.
    """
    installed = {tracker.value for tracker in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(
                f"track: Accelerate has no tracker '{name}'{did_you_mean(name, LOGGER_TYPE_TO_CLASS)}"
            )
        if name not in installed:
            raise InputError(f"track: '{name}' is not installed; pip install {name}")


def start_trackers(accelerator: Accelerator, config: TrainConfig, rates: Mapping[str, float]) -> None:
    """Opens the trackers of a run and tells them its recipe."""
    values = {
        key: value for key, value in recipe(config).items() if isinstance(value, (bool, int, float, str))
    }
    accelerator.init_trackers("lab", {**values, "learning_rate": next(iter(rates.values()))})
