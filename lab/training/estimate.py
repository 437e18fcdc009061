"""Memory and time that a run will take, before it takes them."""

import time

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lab.models.bundle import Bundle
from lab.training.config import TrainConfig

BACKWARD_SHARE = 2.1
"""Time of a step beyond the U-Net's forward pass, in forward passes: back through it, and the text encoder."""


def peak_memory(bundle: Bundle, config: TrainConfig) -> int:
    """Bytes at the peak of a step: weights, what the U-Net keeps for the way back, and its largest activations.

    The U-Net runs once with tensors that have shapes but no storage, so this takes no memory and hardly any time.
    """
    weights = sum(
        _size(module) for module in (bundle.unet, bundle.vae, *(each.encoder for each in bundle.towers))
    )
    together = -(-config.batch_size // config.accumulation)
    return weights + together * _kept_for_backward(bundle, config)


def seconds_per_step(bundle: Bundle, config: TrainConfig) -> float:
    """Measured from one forward pass of the U-Net for one example, after one to warm up."""
    sample, timestep, embeds, extra = _inputs(bundle, config, bundle.device)
    with torch.no_grad():
        for _ in range(2):
            began = time.perf_counter()
            output = bundle.unet(sample, timestep, embeds, added_cond_kwargs=extra, return_dict=False)[0]
            float(output.float().sum())  # waits for the device
            seconds = time.perf_counter() - began
    again = 1.0 if config.gradient_checkpointing else 0.0
    return seconds * (1 + BACKWARD_SHARE + again) * config.batch_size


def what_would_fit(bundle: Bundle, config: TrainConfig) -> str:
    """One line for when memory ran out: the options that would need less, with what each would need."""
    options: dict[str, dict[str, object]] = {
        "--accumulation": {"accumulation": config.batch_size},
        "--gradient-checkpointing": {"gradient_checkpointing": True},
        "--accumulation with --gradient-checkpointing": {
            "accumulation": config.batch_size,
            "gradient_checkpointing": True,
        },
        "--resolution": {
            "resolution": (config.resolution or bundle.defaults.width) // 2,
            "accumulation": config.batch_size,
        },
    }
    now = peak_memory(bundle, config)
    room = _capacity(bundle)
    fitting = []
    for flags, change in options.items():
        needed = peak_memory(bundle, config.model_copy(update=change))
        if needed < min(now, room or now):
            values = " ".join(f"{value}" for value in change.values() if value is not True)
            fitting.append(f"{flags} {values} ({gigabytes(needed)})".replace("  ", " "))
    if bundle.dtype == torch.float32:
        fitting.append("--dtype bfloat16 (about half)")
    return (
        f"memory ran out: a step needs about {gigabytes(now)}; less is needed with {', '.join(fitting)}"
        if fitting
        else f"memory ran out: a step needs about {gigabytes(now)}, and no option makes that less"
    )


def gigabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.2g} GiB"


def _capacity(bundle: Bundle) -> int | None:
    if bundle.device.type == "cuda":
        return torch.cuda.get_device_properties(bundle.device).total_memory
    return None


def _size(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def _kept_for_backward(bundle: Bundle, config: TrainConfig) -> int:
    """Bytes that autograd keeps for one example, each storage counted once, weights not."""
    with torch.device("meta"):
        unet = (
            UNet2DConditionModel.from_config(bundle.unet.config).to(bundle.unet.dtype).requires_grad_(False)
        )
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    weights = {id(weight.untyped_storage()) for weight in unet.parameters()}
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage's id is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in weights:
            kept[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    sample, timestep, embeds, extra = _inputs(bundle, config, torch.device("meta"))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unet(sample, timestep, embeds.requires_grad_(True), added_cond_kwargs=extra, return_dict=False)
    largest = max(kept.values(), default=0)
    return sum(kept.values()) + largest


def _inputs(
    bundle: Bundle, config: TrainConfig, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor] | None]:
    """What the U-Net takes for one example."""
    side = (config.resolution or bundle.defaults.width) // bundle.vae_scale
    dtype = bundle.unet.dtype
    context = min(tower.context_length for tower in bundle.towers)
    sample = torch.zeros(1, bundle.unet.config.in_channels, side, side, device=device, dtype=dtype)
    embeds = torch.zeros(1, context, bundle.unet.config.cross_attention_dim, device=device, dtype=dtype)
    extra = None
    if bundle.family == "sdxl":
        pooled = torch.zeros(1, bundle.towers[-1].width, device=device, dtype=dtype)
        extra = {"text_embeds": pooled, "time_ids": torch.zeros(1, 6, device=device, dtype=dtype)}
    return sample, torch.zeros(1, device=device, dtype=torch.long), embeds, extra
