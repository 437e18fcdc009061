"""Estimates of the memory and time that a run takes, made before it starts."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.device import free_memory, gigabytes
from lab.models.unet import call_unet
from lab.training.config import TrainConfig
from lab.training.objectives.objective import find_objective

BACKWARD_SHARE = 2.1
"""Time of a step beyond the U-Net's forward pass, in forward passes: back through it, and the text encoder."""


def peak_memory(bundle: Bundle, config: TrainConfig) -> int:
    """Bytes at the peak of a step: weights, what is kept for the way back, and the largest activations.

    The networks run once with tensors that have shapes but no storage, so this takes no memory and hardly any time.
    """
    return _weights(bundle) + _activations(bundle, config)


def seconds_per_step(bundle: Bundle, config: TrainConfig) -> float:
    """Seconds that a step takes, estimated from one forward pass of the U-Net for one example, after one to warm up.

    It leaves out what is done besides, such as encoding captions.
    """
    inputs = _unet_inputs(bundle, config, bundle.device)
    with torch.no_grad():
        for _ in range(2):
            began = time.perf_counter()
            float(call_unet(bundle.unet, *inputs).sum())  # waits for the device
            seconds = time.perf_counter() - began
    cost = find_objective(config.objective).cost(bundle, config)
    back = BACKWARD_SHARE + (1.0 if config.gradient_checkpointing else 0.0)
    return seconds * (cost.rows + back * cost.rows_back) * config.batch_size


def check_memory(bundle: Bundle, config: TrainConfig) -> None:
    """Refuses a step that cannot fit, before anything is computed.

    Raises:
        InputError: more is needed than is free, with the options that would need less.
    """
    free = free_memory(bundle.device)
    needed = _activations(bundle, config)  # the weights are there already
    if free is not None and needed > free:
        raise InputError(
            f"memory: a step needs about {gigabytes(needed)} beside the weights and {gigabytes(free)} is free; "
            f"{_less(bundle, config)}"
        )


def what_would_fit(bundle: Bundle, config: TrainConfig) -> str:
    """A line for when memory ran out: the options that would need less, with what each of them would need."""
    now = peak_memory(bundle, config)
    return f"memory ran out: a step needs about {gigabytes(now)}; {_less(bundle, config)}"


def _less(bundle: Bundle, config: TrainConfig) -> str:
    one_by_one: dict[str, object] = {"accumulation": config.batch_size}
    smaller = (config.resolution or bundle.defaults.width) // 2
    changes: list[dict[str, object]] = [
        one_by_one,
        {"gradient_checkpointing": True},
        one_by_one | {"gradient_checkpointing": True},
        one_by_one | {"gradient_steps": 1},
        one_by_one | {"resolution": smaller},
    ]
    now, room = peak_memory(bundle, config), _capacity(bundle)
    fitting, seen = [], {now}
    looked_at = config.keep_attention or config.place == "layers"  # what computing layers again would hide
    for change in changes:
        if looked_at and "gradient_checkpointing" in change:
            continue
        needed = peak_memory(bundle, config.model_copy(update=change))
        if needed < min(now, room or now) and needed not in seen:
            seen.add(needed)
            fitting.append(f"{_flags(change)} ({gigabytes(needed)})")
    if bundle.dtype == torch.float32:
        fitting.append("--dtype bfloat16 (about half)")
    return f"less is needed with {', '.join(fitting)}" if fitting else "no option makes that less"


def _flags(settings: dict[str, object]) -> str:
    """Settings as one types them."""
    flags = ((f"--{name.replace('_', '-')}", value) for name, value in settings.items())
    return " ".join(flag if value is True else f"{flag} {value}" for flag, value in flags)


def _capacity(bundle: Bundle) -> int | None:
    if bundle.device.type == "cuda":
        return torch.cuda.get_device_properties(bundle.device).total_memory
    return None


def _weights(bundle: Bundle) -> int:
    modules: list[nn.Module] = [bundle.unet, bundle.vae, *(tower.encoder for tower in bundle.towers)]
    return sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())


def _activations(bundle: Bundle, config: TrainConfig) -> int:
    """Bytes that autograd keeps of the examples that are computed together."""
    cost = find_objective(config.objective).cost(bundle, config)
    unet = cost.rows_kept * _kept_by_unet(bundle, config)
    decoder = _kept_by_decoder(bundle, config) if cost.decoder_back else 0
    # checkpointed parts are computed again one after the other
    return config.at_once * (max(unet, decoder) if config.gradient_checkpointing else unet + decoder)


def _kept_by_unet(bundle: Bundle, config: TrainConfig) -> int:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(bundle.unet.config)
    nn.Module.to(unet, bundle.unet.dtype).requires_grad_(False)  # diffusers' own `to` logs a warning
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    inputs = _unet_inputs(bundle, config, torch.device("meta"))
    inputs.embeds.requires_grad_(True)
    return _kept(unet, lambda: call_unet(unet, *inputs))


def _kept_by_decoder(bundle: Bundle, config: TrainConfig) -> int:
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(bundle.vae.config)
    nn.Module.to(vae, bundle.vae.dtype).requires_grad_(False)
    sample = _unet_inputs(bundle, config, torch.device("meta")).noisy.to(vae.dtype).requires_grad_(True)
    return _kept(vae, lambda: vae.decode(sample, return_dict=False))


def _kept(module: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps while `run` calls the module: each storage once, weights not; and the largest again."""
    weights = {weight.untyped_storage()._cdata for weight in module.parameters()}
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage's address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _FusedAttention():
        run()
    return sum(kept.values()) + max(kept.values(), default=0)


class _FusedAttention(TorchFunctionMode):
    """Inside, attention keeps what the kernels keep that real devices have: no scores of all pairs of places."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attended.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, attended)
        return attended


class UnetInputs(NamedTuple):
    """What `call_unet` takes for one example."""

    noisy: Tensor
    timesteps: Tensor
    embeds: Tensor
    pooled: Tensor | None
    time_ids: Tensor | None


def _unet_inputs(bundle: Bundle, config: TrainConfig, device: torch.device) -> UnetInputs:
    side = (config.resolution or bundle.defaults.width) // bundle.vae_scale
    dtype, unet = bundle.unet.dtype, bundle.unet.config
    context = bundle.context_length
    noisy = torch.zeros(1, unet.in_channels, side, side, device=device, dtype=dtype)
    embeds = torch.zeros(1, context, unet.cross_attention_dim, device=device, dtype=dtype)
    timesteps = torch.zeros(1, device=device, dtype=torch.long)
    if not bundle.traits.size_conditioning:
        return UnetInputs(noisy, timesteps, embeds, None, None)
    pooled = torch.zeros(1, bundle.towers[-1].width, device=device, dtype=dtype)
    return UnetInputs(noisy, timesteps, embeds, pooled, torch.zeros(1, 6, device=device))
