"""Checks that what was built on a CPU works where the model is on a GPU: a call of each, in few seconds.

What they find is not judged here; where images come out, they are held against the CPU's.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from PIL import Image

import lab
from lab.condition.config import TextOptions
from lab.condition.convert import Converter
from lab.condition.translate import Translator
from lab.models.bundle import Bundle
from lab.sample.negatives import NEGATIVE_METHODS
from lab.search.config import SearchConfig
from lab.search.explain import explain
from lab.search.search import search
from scripts.gpu.images import DEFAULT, PROMPT
from scripts.gpu.learning import learn
from scripts.gpu.shapes import random_bundle
from scripts.gpu.stand import Found, NotHereError, Stand, images_of, worst_psnr

NEGATIVE = Path("lab/assets/emoji/negative.safetensors")
TEXT = "blurry, pixelated, noisy"


def features(stand: Stand, found: Found) -> None:
    """Calls one after the other: what fails is told, and the others have their turn."""
    far, near = stand.emoji(), stand.emoji(device="cpu")
    failed = 0
    runs: dict[str, Callable[[], str | None]] = {**pictures(stand, far, near), **calls(stand, far)}
    for name, run in runs.items():
        began = time.perf_counter()
        try:
            found.note(name, run() or f"{time.perf_counter() - began:.1f} s")
        except NotHereError as reason:
            found.note(name, f"left out: {reason}")
        except Exception as error:
            failed += 1
            print(name, traceback.format_exc(), flush=True)
            found.note(name, f"failed: {(str(error).splitlines() or [type(error).__name__])[0]}")
    found.must("features that failed", failed, most=0)


def pictures(stand: Stand, far: Bundle, near: Bundle) -> dict[str, Callable[[], str]]:
    """Images in ways that build tensors of their own, against the CPU's."""
    usual: dict[str, Any] = {"prompt": PROMPT, "steps": stand.pick(4, 2), **stand.size(128)}
    avoiding = {**usual, "negative_prompt": TEXT}
    image, control = stand.folder / "shapes.png", stand.folder / "controlnet"
    Image.linear_gradient("L").convert("RGB").save(image)
    _save_controlnet(near, control)
    width = far.towers[0].width
    rows = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    behind = lab.Embedding(
        "behind", {far.towers[0].key: torch.zeros(2, width)}, outputs={far.towers[0].key: rows}
    )
    ways: dict[str, dict[str, Any]] = {
        **{f"{name}, guided": {**avoiding, "negative_method": name} for name in NEGATIVE_METHODS},
        **{
            f"{name}, not guided": {**avoiding, "negative_method": name, "guidance": 1.0}
            for name, method in NEGATIVE_METHODS.items()
            if method.attend
        },
        "a negative for some steps": {**avoiding, "negative_interval": (0.2, 0.8)},
        "words of negative weight": {**usual, "prompt": f"{PROMPT} (red:-1)", "negative_method": "negpip"},
        "parts and a schedule": {**avoiding, "prompt": "a [cat:dog:0.5] AND a red apple :0.5"},
        "rescaled guidance within an interval": {
            **avoiding,
            "guidance_rescale": 0.7,
            "guidance_interval": (0.1, 0.9),
        },
        "an init image": {**usual, "init_image": image, "strength": 0.6},
        "a ControlNet": {**usual, "controlnet": control, "control_image": image},
        "output embeddings": {**usual, "prompt": "a noto emoji of <behind>", "embeddings": [behind]},
    }

    def compared(settings: dict[str, Any]) -> str:
        both = (images_of(bundle, seeds=[1, 2], **settings) for bundle in (near, far))
        ratio = worst_psnr(*both)
        assert ratio >= DEFAULT, f"{ratio:.1f} dB from the CPU's images"
        return f"{ratio:.1f} dB"

    return {name: partial(compared, settings) for name, settings in ways.items()}


def _save_controlnet(bundle: Bundle, folder: Path) -> None:
    """A ControlNet for a model, whose output layers say something."""
    torch.manual_seed(0)
    levels = [4 * step for step in range(1, bundle.vae_scale.bit_length() + 1)]
    net = ControlNetModel.from_unet(bundle.unet, conditioning_embedding_out_channels=levels)
    last = (net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out)
    for layer in (*net.controlnet_down_blocks, *last):
        torch.nn.init.normal_(layer.weight, std=0.05)
    net.save_pretrained(folder)


def calls(stand: Stand, far: Bundle) -> dict[str, Callable[[], None]]:
    """What else computes on the device, by name."""
    rows = lab.read_embedding(NEGATIVE).vectors
    embedding = lab.Embedding("negative", {key: each[:1] for key, each in rows.items()})
    said = stand.folder / "prompts.txt"
    said.write_text(f"{PROMPT}\na cat\n", encoding="utf-8")
    learning: dict[str, Any] = {
        "steps": stand.pick(5, 2),
        "evaluate_every": 2,
        "batch_size": 2,
    }
    walked = {"walk": [PROMPT, "a twemoji emoji of a rocket"], "frames": 3, "steps": 2, **stand.size(128)}
    compared = {"prompts": ["a red apple", "a cat"], "seeds": "1-2", "steps": 2, **stand.size(128)}
    return {
        "a walk": lambda: _none(lab.generate(far, out=stand.out("walk"), **walked)),
        "the text objective": lambda: _none(
            lab.train(
                far,
                objective="text",
                text=TEXT,
                name="worded",
                vectors=2,
                stop="never",
                preview_every=0,
                out=stand.out("text"),
                **learning,
            )
        ),
        "the contrastive objective": lambda: _none(
            learn(far, stand.out("contrastive"), objective="contrastive", evaluate_on=2, **learning)
        ),
        "vectors in words": lambda: _none(list(explain(far, embedding, most=stand.pick(2, 1)))),
        "another tool's syntax": lambda: _none(
            Translator(far, (), TextOptions(), "comfy", 20).translate("a (red:1.3) apple")
        ),
        "vectors for another model": lambda: _none(
            Converter(far, random_bundle(replace(stand, tiny=True), "sd1")).convert(embedding, refined=False)
        ),
        "a search": lambda: _none(search(far, SearchConfig(over=[f"prompts:{said}"], text=["a cat"], top=2))),
        "heat maps and words left out of a comparison": lambda: _none(
            lab.compare(
                far,
                axes={"knock_out": ["none", "[end]"]},
                heat_map=["apple"],
                out=stand.out("cells"),
                **compared,
            )
        ),
        "a request of the server": lambda: _served(stand, far),
    }


def _none(_: object) -> None:
    """Drops a result."""


def _served(stand: Stand, bundle: Bundle) -> None:
    """An image and a vector through the app, without a socket."""
    try:
        from starlette.testclient import TestClient

        from lab.serve.app import create_app
        from lab.serve.config import ServeConfig
    except (ImportError, RuntimeError) as error:  # Starlette's word for a client that is not installed
        raise NotHereError(f"needs what lab serve needs: {error}") from None
    app = create_app(ServeConfig(out=stand.out("serve"), page=False), bundle)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        size = "x".join(map(str, stand.size(128).values()))
        image = client.post("/v1/images/generations", json={"prompt": PROMPT, "size": size, "steps": 2})
        vector = client.post("/v1/embeddings", json={"input": PROMPT, "model": "emoji"})
    for answer in (image, vector):
        assert answer.status_code == 200, answer.text
