"""ControlNet: the images of diffusers' pipelines, refusals before weights are read, and records that tell of it."""

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from safetensors.torch import load_file, save_file

import lab
from lab.comparing.compare import compare
from lab.errors import InputError
from tests.ldm import controlnet_tensors

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
        ({"control_image": "shapes"}, "give one with --controlnet"),
        ({"controlnet": "controlnet"}, "give one with --control-image"),
        ({"control_scale": 0.5}, "give one with --controlnet"),
        ({"controlnet": "model", "control_image": "shapes"}, "no ControlNet; its folder has config"),
        ({"controlnet": "unet", "control_image": "shapes"}, "not a ControlNet"),
        ({"controlnet": "nothing", "control_image": "shapes"}, "unknown ControlNet 'nothing'"),
        ({"controlnet": "other", "control_image": "shapes"}, r"cross_attention_dim 7 for \d+"),
    ],
)
def test_what_cannot_be_is_refused(given, said, bundle, controlnet, shapes, tmp_path):
    config = (controlnet / "config.json").read_text(encoding="utf-8")
    width = f'"cross_attention_dim": {bundle.unet.config.cross_attention_dim}'
    shutil.copytree(controlnet, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(config.replace(width, '"cross_attention_dim": 7'), encoding="utf-8")
    places = {"shapes": shapes, "controlnet": controlnet, "other": tmp_path}
    places |= {"model": bundle.root, "unet": bundle.root / "unet"}
    settings = {name: places.get(value, value) for name, value in given.items()}
    with pytest.raises(InputError, match=said):
        lab.generate(bundle, prompt="a red apple", **settings, **SIZE)


def single_file(bundle, controlnet, path, layout):
    """The ControlNet as one file, by the names of one code or another."""
    net = ControlNetModel.from_pretrained(controlnet)
    tensors = net.state_dict() if layout == "diffusers" else controlnet_tensors(net)
    prefix = "control_model." if layout == "lllyasviel" else ""
    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize("layout", ["diffusers", "lllyasviel", "bare"])
def test_a_single_file_is_the_same_net(bundle, controlnet, shapes, tmp_path, layout, capfd):
    path = single_file(bundle, controlnet, tmp_path / "x.safetensors", layout)
    asked = {"prompt": "a red apple", "steps": 2, "control_image": shapes, **SIZE}
    folder = lab.generate(bundle, controlnet=controlnet, **asked)[0]
    file = lab.generate(bundle, controlnet=f"file:{path}", **asked)[0]
    assert torch.equal(file.latents, folder.latents)
    assert capfd.readouterr() == ("", "")
    assert file.record["controlnet"] == f"file:{path}"


@pytest.mark.parametrize("bundle", ["sd1"], indirect=True)
def test_it_comes_from_a_hub_once(bundle, controlnet, shapes, tmp_path, hub, cut_off):
    name = f"org/{bundle.family}"
    path = single_file(bundle, controlnet, tmp_path / "x.safetensors", "lllyasviel")
    files = {file.name: file.read_bytes() for file in controlnet.iterdir()}
    hub.put(name, {"README.md": b"#", **files, **{f"inside/{file}": data for file, data in files.items()}})
    hub.put(f"{name}-file", {"x.safetensors": path.read_bytes(), "y.pth": b"y"})
    asked = {"prompt": "a red apple", "steps": 2, "control_image": shapes, **SIZE}
    folder = lab.generate(bundle, controlnet=controlnet, **asked)[0]
    for source in (f"hub:{name}", f"hub:{name}/inside", f"hub:{name}-file/x.safetensors"):
        fetched = lab.generate(bundle, controlnet=source, **asked)[0]
        assert torch.equal(fetched.latents, folder.latents)
        if "-file" not in source:
            assert fetched.record["controlnet_sha256"] == folder.record["controlnet_sha256"]
    assert len(hub.asked(f"{name}/resolve")) == 2 and not hub.asked("README")
    for source, said in (
        (f"{name}-file/y.pth", "ControlNetModel in the pipeline's place"),
        ("org/no", "no such"),
    ):
        with pytest.raises(InputError, match=said):
            lab.generate(bundle, controlnet=f"hub:{source}", **asked)
    cut_off()
    with pytest.raises(InputError, match="out of reach"):
        lab.generate(bundle, controlnet="hub:org/other", **asked)


OTHER_KINDS = {
    "task_embedding": "a union ControlNet",
    "lora_controlnet": "a Control-LoRA",
    "lllite_unet_x.down.0.weight": "a ControlNet-LLLite",
    "adapter.body.0.resnets.0.block1.weight": "a T2I-Adapter",
    "body.0.in_conv.weight": "a T2I-Adapter",
    "difference": "the difference from a model",
    "controlnet_blocks.0.weight": "a ControlNet for a transformer",
    "down_blocks.0.motion_modules.0.norm.weight": "SparseCtrl",
    "ip_adapter.1.to_k_ip.weight": "an IP-Adapter",
    "lora_unet_x.lora_up.weight": "a LoRA, not a plain ControlNet; give it by --lora",
    "y": "not a ControlNet",
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_other_kinds_are_called_by_their_names(name, sd1, shapes, tmp_path):
    save_file({name: torch.zeros(2, 2), "x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=OTHER_KINDS[name]) as raised:
        lab.generate(
            sd1, prompt="a", controlnet=f"file:{tmp_path}/x.safetensors", control_image=shapes, **SIZE
        )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("bundle", ["sd1", "sdxl"], indirect=True)
def test_a_net_for_another_family_or_with_missing_tensors(sd1, sdxl, controlnet, bundle, shapes, tmp_path):
    path = single_file(bundle, controlnet, tmp_path / "x.safetensors", "lllyasviel")
    other = sd1 if bundle is sdxl else sdxl
    asked = {"prompt": "a", "control_image": shapes, "controlnet": f"file:{path}", **SIZE}
    with pytest.raises(InputError, match=r"for another U-Net than .* use one made for SD"):
        lab.generate(other, **asked)
    tensors = load_file(path)
    save_file({name: t for name, t in tensors.items() if not name.endswith("zero_convs.0.0.bias")}, path)
    with pytest.raises(
        InputError, match=r"its weights lack 1 tensors, among them controlnet_down_blocks\.0\.bias"
    ):
        lab.generate(bundle, **asked)


@pytest.mark.parametrize("bundle", ["sd1"], indirect=True)
def test_half_precision_alone_is_taken(bundle, controlnet, shapes, tmp_path):
    folder = shutil.copytree(controlnet, tmp_path / "net")
    plain = folder / "diffusion_pytorch_model.safetensors"
    plain.rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    asked = {"prompt": "a red apple", "steps": 2, "control_image": shapes, **SIZE}
    ours, theirs = (lab.generate(bundle, controlnet=net, **asked)[0] for net in (folder, controlnet))
    assert torch.equal(ours.latents, theirs.latents)
