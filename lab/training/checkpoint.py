"""Everything that a resumed run needs, in one file that is replaced as a whole."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from lab.errors import InputError
from lab.files import atomic
from lab.training.loop import Loop, State

FORMAT = "lab-training-2"


def save_checkpoint(path: Path, loop: Loop) -> None:
    """Writes a loop's vectors, best vectors, optimizer and state to a safetensors file.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, rows in loop.learned.named():
        tensors[f"vectors/{name}"] = rows.detach().cpu()
        for key, value in loop.optimizer.state[rows].items():
            tensors[f"optimizer/{key}/{name}"] = value.detach().cpu()
    tensors |= {f"best/{name}": rows for name, rows in loop.state.best.items()}
    state = {
        "step": loop.state.step,
        "evaluations": loop.state.evaluations,
        "best_step": loop.state.best_step,
        "best_loss": loop.state.best_loss,
    }
    with atomic(path) as temporary:
        metadata = {"format": FORMAT, "state": json.dumps(state)}
        safetensors.torch.save_file(
            {key: value.contiguous() for key, value in tensors.items()}, temporary, metadata
        )


def load_checkpoint(path: Path, loop: Loop) -> None:
    """Sets a loop's vectors, optimizer and state to those in a file.

    Raises:
        InputError: no such file, damaged, or of a run that learns other vectors.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
        if metadata["format"] != FORMAT:
            raise ValueError(metadata["format"])
        state = json.loads(metadata["state"])
    except FileNotFoundError:
        raise InputError(
            f"{path}: no checkpoint there; the run stopped before its first one, so start it anew"
        ) from None
    except (SafetensorError, OSError, KeyError, ValueError):
        raise InputError(f"{path}: not a checkpoint of this version, or damaged") from None
    wanted = {name: tuple(rows.shape) for name, rows in loop.learned.named()}
    stored = {
        key.removeprefix("vectors/"): tuple(value.shape)
        for key, value in tensors.items()
        if key.startswith("vectors/")
    }
    if wanted != stored:
        raise InputError(
            f"{path}: a checkpoint of another run: it holds {_list_shapes(stored)} where {_list_shapes(wanted)} are "
            "learned"
        )
    loop.learned.restore({name: tensors[f"vectors/{name}"] for name in wanted})
    learned = dict(loop.learned.named())
    for tensor_name, saved in tensors.items():
        part, *rest = tensor_name.split("/", 2)
        if part == "optimizer":
            key, name = rest
            rows = learned[name]
            loop.optimizer.state[rows][key] = saved if key == "step" else saved.to(rows.device)
    loop.state = State(
        state["step"],
        [(step, found) for step, found in state["evaluations"]],
        {name: tensors[f"best/{name}"] for name in wanted if f"best/{name}" in tensors},
        state["best_step"],
        state["best_loss"],
    )


def _list_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in sorted(shapes.items()))
