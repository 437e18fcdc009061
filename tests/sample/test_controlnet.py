"""ControlNet: the images of diffusers' pipelines, refusals before weights are read, and records that tell of it."""

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

import lab
from lab.comparing.compare import compare
from lab.errors import InputError

SIZE = {"width": 32, "height": 32}
PIPELINES = {
    family: f"StableDiffusion{kind}ControlNetPipeline"
    for family, kind in (("sd1", ""), ("sd2", ""), ("sdxl", "XL"))
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A control image with something in it."""
    path = tmp_path_factory.mktemp("control") / "shapes.png"
    image = Image.new("RGB", (SIZE["width"], SIZE["height"]))
    image.paste((255, 255, 255), (8, 4, 20, 28))
    image.save(path)
    return path


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def bundle(request):
    """A model of each family that ControlNets are made for."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def controlnet(bundle, tmp_path_factory):
    """A ControlNet for it whose output layers, zero at first, say something."""
    torch.manual_seed(0)
    blocks = [4 * step for step in range(1, bundle.vae_scale.bit_length() + 1)]
    net = ControlNetModel.from_unet(bundle.unet, conditioning_embedding_out_channels=blocks)
    for layer in (
        *net.controlnet_down_blocks,
        net.controlnet_mid_block,
        net.controlnet_cond_embedding.conv_out,
    ):
        torch.nn.init.normal_(layer.weight, std=0.3)
    folder = tmp_path_factory.mktemp("controlnet")
    net.save_pretrained(folder)
    return folder


def test_images_are_those_of_diffusers(bundle, controlnet, shapes):
    ours = lab.generate(
        bundle,
        prompt="a red apple",
        negative_prompt="blurry",
        seeds=[3, 4],
        steps=3,
        guidance=5.0,
        controlnet=controlnet,
        control_image=shapes,
        control_scale=0.7,
        **SIZE,
    )
    components = {**bundle.pipeline().components, "controlnet": ControlNetModel.from_pretrained(controlnet)}
    pipeline = getattr(diffusers, PIPELINES[bundle.family])(**components)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        ["a red apple"] * 2,
        image=Image.open(shapes),
        negative_prompt=["blurry"] * 2,
        num_inference_steps=3,
        guidance_scale=5.0,
        controlnet_conditioning_scale=0.7,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        output_type="latent",
        **SIZE,
    ).images
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.latents, other, atol=1e-4, rtol=1e-4)


def test_it_reads_the_prompts_alone_where_cross_attention_avoids_more(bundle, controlnet, shapes):
    settings = {"prompt": "a red apple", "negative_prompt": "blurry", "steps": 2, "guidance": 1.0, **SIZE}
    settings["negative_method"] = "vsf"
    free = lab.generate(bundle, **settings)[0]
    held = lab.generate(bundle, **settings, controlnet=controlnet, control_image=shapes, control_scale=0)[0]
    torch.testing.assert_close(held.latents, free.latents, atol=1e-4, rtol=1e-4)


def test_it_is_an_axis_and_in_the_record(bundle, controlnet, shapes, tmp_path):
    report = compare(
        bundle,
        prompts=["a red apple"],
        seeds="1",
        steps=2,
        controlnet=controlnet,
        control_image=shapes,
        axes={"control_scale": [0, 1]},
        out=tmp_path / "run",
        **SIZE,
    )
    free, held = sorted((report.folder / "cells").glob("*.png"))
    without = lab.generate(bundle, prompt="a red apple", seeds="1", steps=2, **SIZE)[0].image
    assert np.abs(np.asarray(Image.open(free), int) - np.asarray(without, int)).max() <= 1
    assert (np.asarray(Image.open(held)) != np.asarray(without)).any()
    record = lab.runs.png.read_record(held)
    assert (record["control_scale"], len(record["controlnet_sha256"])) == (1.0, 64)
    assert record["control_image"] == str(shapes)


def test_other_weights_in_the_same_folder_are_read_anew(bundle, controlnet, shapes, tmp_path):
    folder = Path(shutil.copytree(controlnet, tmp_path / "net"))
    asked = {"prompt": "a red apple", "steps": 2, "controlnet": folder, "control_image": shapes, **SIZE}
    before = lab.generate(bundle, **asked)[0]
    net = ControlNetModel.from_pretrained(folder)
    torch.nn.init.zeros_(net.controlnet_mid_block.weight)
    net.save_pretrained(folder)
    after = lab.generate(bundle, **asked)[0]
    assert before.record["controlnet_sha256"] != after.record["controlnet_sha256"]
    assert not torch.equal(before.latents, after.latents)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"control_image": "shapes"}, "give its folder with --controlnet"),
        ({"controlnet": "controlnet"}, "give one with --control-image"),
        ({"control_scale": 0.5}, "give one with --controlnet"),
        ({"controlnet": "model", "control_image": "shapes"}, "config.json: no such file"),
        ({"controlnet": "unet", "control_image": "shapes"}, "a UNet2DConditionModel, not a ControlNet"),
        ({"controlnet": "other", "control_image": "shapes"}, r"cross_attention_dim 7 for \d+"),
    ],
)
def test_what_cannot_be_is_refused(given, said, bundle, controlnet, shapes, tmp_path):
    config = (controlnet / "config.json").read_text(encoding="utf-8")
    width = f'"cross_attention_dim": {bundle.unet.config.cross_attention_dim}'
    (tmp_path / "config.json").write_text(config.replace(width, '"cross_attention_dim": 7'), encoding="utf-8")
    places = {"shapes": shapes, "controlnet": controlnet, "other": tmp_path}
    places |= {"model": bundle.root, "unet": bundle.root / "unet"}
    settings = {name: places.get(value, value) for name, value in given.items()}
    with pytest.raises(InputError, match=said):
        lab.generate(bundle, prompt="a red apple", **settings, **SIZE)
