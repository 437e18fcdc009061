"""Jobs with random conditioning, so that what is tested does not depend on a text encoder."""

import copy
from dataclasses import replace

import torch

from lab.condition.conditioning import Conditioning, Encoding, Part, TokenSpan
from lab.sample.config import GenerateConfig, Request
from lab.sample.plan import Job
from lab.sample.settings import resolve_settings

STEPS = 3


def encoding(bundle, text, chunks=1, seed=0, embedding=None):
    """Random rows, one for each word from row 1 on; the words after the last full chunk's begin the next."""
    generator = torch.Generator().manual_seed(seed)
    rows = chunks * 77
    spans = []
    for place, word in enumerate(text.split()):
        start = spans[-1].end if spans else 1
        if start == 76:
            start = 78
        learned = word if word == embedding else None
        spans.append(TokenSpan(word, start, start + (3 if learned else 1), (place, place + 1), 1.0, learned))
    embeds = torch.randn((rows, bundle.unet.config.cross_attention_dim), generator=generator)
    pooled = torch.randn(bundle.towers[-1].width, generator=generator) if bundle.family == "sdxl" else None
    return Encoding(text, embeds, pooled, tuple(spans))


def plain(entry, until=STEPS):
    return Conditioning(entry.text, (Part(1.0, ((until, entry),)),))


def make_job(bundle, positive="a red apple", negative="blurry", seed=1, guidance=5.0, **settings):
    options = GenerateConfig(steps=STEPS, guidance=guidance, scheduler="ddim", **settings)
    sides = [plain(encoding(bundle, text, seed=place)) for place, text in enumerate((positive, negative))]
    request = Request(0, positive, negative, seed, options)
    return Job(0, *sides, seed, resolve_settings(bundle.facts, options), request)


def out_of_sight(bundle):
    """The bundle on a device whose numbers nobody can see: what would wait for a GPU's, or mix devices, raises."""
    device = torch.device("meta")
    parts = {name: copy.deepcopy(getattr(bundle, name)).to(device) for name in ("unet", "vae")}
    towers = tuple(replace(each, encoder=copy.deepcopy(each.encoder).to(device)) for each in bundle.towers)
    return replace(bundle, device=device, towers=towers, **parts)
