"""From a name, folder or file to a `Bundle`."""

from pathlib import Path
from typing import Any

import torch

from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle, TextTower
from lab.models.config import ModelOptions
from lab.models.describe import count_parameters, read_headers
from lab.models.device import (
    arrange_modules,
    check_machine,
    free_memory,
    gigabytes,
    give_memory_back,
    pick_device,
    pick_dtype,
)
from lab.models.facts import ModelFacts, read_facts
from lab.models.family import Family, check_channels, encoder_keys
from lab.models.folder import Parts, read_folder, read_vae


def load(source: str | Path = "emoji", *, listener: Listener = Listener(), **options: Any) -> Bundle:
    """Loads a model.

    Args:
        source: The bundled `emoji`, a diffusers folder, `file:x.safetensors`, `hub:org/name` or
            `hub:org/name/x.safetensors`.
        listener: Hears how much of a model on the hub is fetched.
        **options: The other fields of `ModelOptions`, by name: `device` and `dtype` (default `auto`),
            `revision`, `variant`, `vae`, `config_folder`, `prediction_type`, `lora`, `vae_slicing`,
            `vae_tiling`, `cpu_offload`, `compile`.

    Raises:
        InputError: an unknown model or option, a missing or damaged part, weights that are not finite, a family that
            the lab does not load, or an option that this machine cannot serve.
    """
    return load_options(ModelOptions.build({"model": str(source), **options}, where="load"), listener)


def load_options(
    options: ModelOptions,
    listener: Listener = Listener(),
    facts: ModelFacts | None = None,
    text_only: bool = False,
) -> Bundle:
    """Loads the model that the options describe; see `load`.

    Args:
        facts: What `read_facts` told of it, where that was asked before.
        text_only: Leaves U-Net and VAE without weights, their tensors on torch's meta device: enough to encode texts,
            in the memory of the text encoders alone. A LoRA or offloading asks for the whole model.
    """
    device = pick_device(options.device)
    check_machine(options, device)
    facts = facts or read_facts(options, listener, without_vae=text_only)
    text_only = text_only and not (options.lora or options.cpu_offload)
    dtype = pick_dtype(options.dtype, device, facts.unet)
    _check_fits(facts, options, dtype, device, text_only)
    if facts.root.is_dir():
        parts = read_folder(facts.root, facts.family, options.variant, dtype, text_only)
    else:
        from lab.models.single_file import read_single_file  # brings conversion code that folders never need

        parts = read_single_file(facts.root, facts, options.config_folder, dtype, text_only)
    bundle = _bundle(parts, facts, options, device, dtype)
    if options.lora:
        from lab.models.pipeline import fuse_all  # brings peft

        bundle = fuse_all(bundle)
    _check_finite(bundle)
    give_memory_back()
    arrange_modules(bundle)
    give_memory_back()
    return bundle


def _check_fits(
    facts: ModelFacts, options: ModelOptions, dtype: torch.dtype, device: torch.device, text_only: bool
) -> None:
    """Refuses, before any are read, weights that are larger than the memory that is free.

    Raises:
        InputError: with what would fit, if anything does.
    """
    free = free_memory(device)
    headers, _ = read_headers(facts, options.variant)
    counts = {part: count for part, count in count_parameters(headers).items() if count}
    if text_only:
        counts = {part: count for part, count in counts.items() if part.startswith("text_encoder")}

    def needed(dtype: torch.dtype, offload: bool) -> int:
        sizes = [count * (dtype.itemsize if part == "unet" else 4) for part, count in counts.items()]
        return max(sizes) if offload else sum(sizes)

    now = needed(dtype, options.cpu_offload)
    if free is None or now <= free:
        return
    others = {
        "--dtype bfloat16": needed(torch.bfloat16, options.cpu_offload),
        "--cpu-offload": needed(dtype, True) if device.type == "cuda" else now,
        "--dtype bfloat16 --cpu-offload": needed(torch.bfloat16, True) if device.type == "cuda" else now,
    }
    fitting = [f"{flags} ({gigabytes(size)})" for flags, size in others.items() if size < min(now, free)]
    advice = f"it fits with {' or '.join(fitting)}" if fitting else "take a smaller one, or free some memory"
    precision = str(dtype).removeprefix("torch.")
    raise InputError(
        f"{facts.source}: the model takes {gigabytes(now)} in {precision}, and {gigabytes(free)} of memory "
        f"{'on the GPU ' if device.type == 'cuda' else ''}is free; {advice}"
    )


def _bundle(
    parts: Parts,
    facts: ModelFacts,
    options: ModelOptions,
    device: torch.device,
    dtype: torch.dtype,
) -> Bundle:
    vae, weights = parts.vae, dict(parts.weights)
    if facts.vae_root is not None:
        vae, weights["vae"] = read_vae(facts.vae_root, parts.vae)
    check_channels(parts.unet.config.in_channels, vae.config.latent_channels, options.model)
    for module in (*parts.encoders, parts.unet, vae):
        module.requires_grad_(False)
        if not options.cpu_offload and module.device.type != "meta":
            module.to(device)
    return Bundle(
        source=options.model,
        root=facts.root,
        family=facts.family,
        towers=_towers(parts, facts.family),
        unet=parts.unet,
        vae=vae,
        scheduler_config=facts.scheduler_config,
        device=device,
        dtype=dtype,
        options=options,
        weights=tuple(path for paths in weights.values() for path in paths),
        defaults=facts.defaults,
        clip_folder=facts.root / "clip" if (facts.root / "clip" / "config.json").is_file() else None,
        force_zeros_for_empty_prompt=facts.traits.zeros_without_negative
        and bool(parts.settings.get("force_zeros_for_empty_prompt", True)),
    )


def _check_finite(bundle: Bundle) -> None:
    """Refuses weights that hold NaN or infinity: every image would be black. One sum a tensor, one wait for a GPU.

    Raises:
        InputError: names the first such tensor.
    """
    modules = {"U-Net": bundle.unet, "VAE": bundle.vae}
    modules |= {f"text encoder {place}": tower.encoder for place, tower in enumerate(bundle.towers, 1)}
    named = [
        (part, name, weight)
        for part, module in modules.items()
        for name, weight in module.named_parameters()
        if not weight.is_meta
    ]
    with torch.no_grad():
        sums = torch.stack([weight.sum(dtype=torch.float32) for _, _, weight in named])
        suspects = (~sums.isfinite()).nonzero().flatten().tolist()  # sums of large numbers may overflow
        for part, name, weight in (named[place] for place in suspects):
            if not weight.isfinite().all():
                blame = " or a LoRA" if bundle.options.lora else ""
                other = (
                    "" if weight.dtype == torch.float32 else "; --dtype float32 may hold what this one cannot"
                )
                raise InputError(
                    f"{bundle.source}: the {part}'s {name} holds NaN or infinity: its file{blame} is damaged{other}"
                )


def _towers(parts: Parts, family: Family) -> tuple[TextTower, ...]:
    for tokenizer, encoder in zip(parts.tokenizers, parts.encoders, strict=True):
        for name in ("bos_token", "eos_token", "pad_token"):
            number, known = getattr(tokenizer, f"{name}_id"), encoder.config.vocab_size
            if number is None or not 0 <= number < known:
                raise InputError(
                    f"{tokenizer.name_or_path}: its {name} {getattr(tokenizer, name)!r} is none of the {known} tokens "
                    "that the text encoder knows; mend tokenizer_config.json"
                )
    keys = encoder_keys(family, [encoder.config.hidden_size for encoder in parts.encoders])
    return tuple(
        TextTower(key, tokenizer, encoder, tokenizer.pad_token_id)
        for key, tokenizer, encoder in zip(keys, parts.tokenizers, parts.encoders, strict=True)
    )
