"""What the server is and has, as the A1111 web UI's API lists it."""

from collections.abc import Mapping
from typing import Any

import psutil  # comes with accelerate
import torch
from fastapi import APIRouter
from starlette.exceptions import HTTPException

from lab.embeddings.embedding import Embedding
from lab.embeddings.facts import check_fits
from lab.embeddings.layout_readers import SD_CHECKPOINT
from lab.errors import InputError, did_you_mean
from lab.models.schedulers import SCHEDULERS, check_scheduler
from lab.serve.answers import what_went_wrong
from lab.serve.service import Service

EMPTY = (
    "artist-categories artists extensions face-restorers hypernetworks latent-upscale-modes loras prompt-styles "
    "realesrgan-models script-info sd-vae upscalers"
).split()
"""What there is none of."""

CLIP_SKIP = "CLIP_stop_at_last_layers"

OPTIONS = {
    "sd_model_checkpoint": "",
    "sd_vae": "Automatic",
    CLIP_SKIP: 1,
    "samples_format": "png",
    "enable_pnginfo": True,
    "live_previews_enable": True,
    "randn_source": "CPU",
    "eta_noise_seed_delta": 0,
    "emphasis": "Original",
    "comma_padding_backtrack": 20,
}
"""The web UI's options that have a meaning here, as they are; the model's name is put in where there is one."""

EVEN = ("automatic", "uniform", "normal")
"""The web UI's names for noise levels at even steps of time, which is how every scheduler here spaces them; its own
`Automatic` is Karras' for a few samplers."""

KARRAS = "karras"


def add_lists(router: APIRouter, service: Service) -> None:
    """Adds the lists to a router. They are plain functions, which run beside the event loop: some read files."""

    @router.get("/sd-models")
    def sd_models() -> list[dict[str, Any]]:
        """The model."""
        digest = service.bundle.hash
        described = {
            "title": title(service),
            "model_name": service.name,
            "hash": digest[:10],
            "sha256": digest,
        }
        return [described | {"filename": service.name, "config": None}]

    @router.get("/samplers")
    def samplers() -> list[dict[str, Any]]:
        """Those that work with the model; what the lab calls them is an alias."""
        return [
            {"name": entry.a1111, "aliases": [name], "options": {}}
            for name, entry in SCHEDULERS.items()
            if _works(service, name)
        ]

    @router.get("/schedulers")
    def schedulers() -> list[dict[str, Any]]:
        """How noise levels are spaced: at even steps of time, or as Karras et al. do where the model can be sampled
        so."""
        described = {"default_rho": -1.0, "need_inner_model": False}
        even = [{"name": EVEN[0], "label": EVEN[0].title(), "aliases": list(EVEN[1:])} | described]
        karras = any(_works(service, name, karras=True) for name in SCHEDULERS)
        return even + [{"name": KARRAS, "label": "Karras", "aliases": []} | described] * karras

    @router.get("/embeddings")
    def embeddings() -> dict[str, dict[str, Any]]:
        """The served embeddings that prompts for this model can name, and the others with the reason."""
        loaded, skipped = {}, {}
        for name in sorted(library := service.library, key=str.casefold):
            described: dict[str, Any] = dict.fromkeys(("step", "sd_checkpoint", "sd_checkpoint_name"))
            described |= {"shape": 0, "vectors": 0}
            try:
                described = _described(library[name])
                check_fits(library[name], service.bundle.facts)
                loaded[name] = described
            except InputError as error:
                skipped[name] = described | {"reason": what_went_wrong(error, service.config)}
        return {"loaded": loaded, "skipped": skipped}

    @router.post("/refresh-embeddings")
    def refresh_embeddings() -> None:
        """Looks anew into the served folders."""
        service.refresh_embeddings()

    @router.post("/refresh-checkpoints")
    @router.post("/refresh-loras")
    @router.post("/refresh-vae")
    async def refresh() -> None:
        """Does nothing: one model is served."""

    @router.get("/memory")
    def memory() -> dict[str, Any]:
        """The process's memory and the machine's, and the GPU's (bytes)."""
        total, used = psutil.virtual_memory().total, psutil.Process().memory_info().rss
        return {"ram": {"free": total - used, "used": used, "total": total}, "cuda": _gpu_memory(service)}

    @router.get("/cmd-flags")
    async def cmd_flags() -> dict[str, Any]:
        """Where the server listens, and what it serves."""
        config = service.config
        where = {"server_name": config.host, "port": config.port, "listen": not config.is_local}
        return {"api": True, "ckpt": service.name} | where

    @router.get("/scripts")
    async def scripts() -> dict[str, list[str]]:
        """There are none."""
        return {"txt2img": [], "img2img": []}

    async def nothing() -> list[Any]:
        """There are none."""
        return []

    for name in EMPTY:
        router.add_api_route(f"/{name}", nothing, operation_id=f"list_{name.replace('-', '_')}")


def find_sampler(name: str | None, schedule: str | None) -> tuple[str | None, bool]:
    """The lab's scheduler by the web UI's names, None for the model's own; and whether Karras' noise levels are meant.

    As in the web UI, a schedule behind the sampler's name counts before the one beside it.

    Raises:
        HTTPException: 404, there is none of that name.
    """
    samplers = {entry.a1111.casefold(): own for own, entry in SCHEDULERS.items()} | {
        own: own for own in SCHEDULERS
    }
    name, schedule = name or "", (schedule or EVEN[0]).casefold()
    wanted = name.casefold()
    front, _, behind = wanted.rpartition(" ")
    if wanted not in samplers and behind in (*EVEN, KARRAS):
        wanted, schedule = front, behind
    if wanted and wanted not in samplers:
        shown = (entry.a1111 for entry in SCHEDULERS.values())
        raise HTTPException(404, f"Sampler not found: '{name[:50]}'{did_you_mean(name[:50], shown)}")
    if schedule not in (*EVEN, KARRAS):
        raise HTTPException(404, f"Scheduler not found: '{schedule[:50]}'; there are Automatic and Karras")
    return samplers.get(wanted), schedule == KARRAS


def title(service: Service) -> str:
    """What the web UI calls a model in its lists: its name and the first digits of its hash."""
    return f"{service.name} [{service.bundle.short_hash}]"


def options(service: Service, clip_skip: int) -> dict[str, Any]:
    """The options that there are, of which `CLIP_stop_at_last_layers` alone can be another."""
    model = {"sd_model_checkpoint": title(service), "sd_checkpoint_hash": service.bundle.hash}
    return OPTIONS | model | {CLIP_SKIP: clip_skip}


def clip_skip_of(service: Service, given: Mapping[str, Any], before: int) -> int:
    """The clip skip that options ask for, as the web UI counts; others may only be what they are.

    Raises:
        HTTPException: 404, another model; 501, an option that cannot be set.
        InputError: a clip skip that is none.
    """
    there, clip_skip = options(service, before), before
    for name, value in given.items():
        if value is None:
            continue
        if name == "sd_model_checkpoint":
            _check_model(service, value)
        elif name == CLIP_SKIP:
            if not isinstance(value, (int, float)) or value not in range(1, 13):
                raise InputError(f"{CLIP_SKIP}: {str(value)[:20]} is none; send 1 (the last layer) to 12")
            clip_skip = int(value)
        elif name == "sd_vae":
            if value not in ("", "Automatic", "None"):
                raise HTTPException(
                    501, f"sd_vae: the model has its own; send Automatic, not {str(value)[:50]}"
                )
        elif name not in there:
            raise HTTPException(501, f"{name[:50]}: no such option here{did_you_mean(name[:50], there)}")
        elif value != there[name]:
            raise HTTPException(501, f"{name}: is {there[name]} and cannot be set")
    return clip_skip


def _check_model(service: Service, name: Any) -> None:
    digest = service.bundle.hash
    known = {title(service), service.name, digest, digest[:10]}
    if name not in (None, "", *known):
        raise HTTPException(404, f"model '{str(name)[:100]}' not found; {title(service)} is served")


def _works(service: Service, scheduler: str, karras: bool = False) -> bool:
    try:
        check_scheduler(scheduler, karras, service.bundle.scheduler_config)
    except InputError:
        return False
    return True


def _described(embedding: Embedding) -> dict[str, Any]:
    origin = embedding.provenance
    return {
        "step": origin.step,
        "sd_checkpoint": origin.metadata.get(SD_CHECKPOINT),
        "sd_checkpoint_name": origin.base_model,
        "shape": sum(embedding.widths.values()),  # the web UI adds up SDXL's two
        "vectors": embedding.count,
    }


def _gpu_memory(service: Service) -> dict[str, Any]:
    device = service.bundle.device
    if device.type != "cuda":
        return {"error": "unavailable"}
    free, total = torch.cuda.mem_get_info(device)
    told = torch.cuda.memory_stats(device)
    kinds = {
        "active": "active",
        "allocated": "allocated",
        "reserved": "reserved",
        "inactive": "inactive_split",
    }
    pools = {
        kind: {when: told.get(f"{pool}_bytes.all.{when}", 0) for when in ("current", "peak")}
        for kind, pool in kinds.items()
    }
    events = {"retries": told.get("num_alloc_retries", 0), "oom": told.get("num_ooms", 0)}
    return {"system": {"free": free, "used": total - free, "total": total}} | pools | {"events": events}
