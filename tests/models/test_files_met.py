"""Kinds of single files that people have: each loads as the same model, or is told in one line what it is."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

import lab
from lab.errors import InputError
from lab.models.describe import describe
from lab.models.load import load
from tests.ldm import write_checkpoint

FAMILIES = ["sd1", "sd2", "sdxl"]
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def tensors(request, tmp_path_factory):
    """The tensors of a checkpoint of each family."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {f: write_checkpoint(request.getfixturevalue(f), folder / f"{f}.safetensors") for f in FAMILIES}
    return {family: load_file(path) for family, path in paths.items()}


@pytest.fixture
def stored(tmp_path):
    """Puts tensors into a file, and returns it as a source."""

    def store(tensors, metadata=None):
        save_file(
            {n: t.contiguous().clone() for n, t in tensors.items()}, tmp_path / "x.safetensors", metadata
        )
        return f"file:{tmp_path}/x.safetensors"

    return store


def said(source, **options):
    with pytest.raises(InputError) as raised:
        load(source, device="cpu", **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def in_float8(tensors, part=""):
    return {
        name: tensor.to(torch.float8_e4m3fn) if name.startswith(part) and tensor.numel() else tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(("family", "part"), [("sd1", ""), ("sd2", ""), ("sdxl", UNET)])
def test_float8_is_read_as_the_numbers_that_it_holds(family, part, tensors, stored, request):
    original = request.getfixturevalue(family)
    rounded = in_float8(tensors[family], part)
    source = stored(rounded)
    assert describe(source).dtypes[0] == "F8_E4M3"
    ours, theirs = (
        load(each, device="cpu", config_folder=original.root).unet.state_dict()
        for each in (source, stored({name: tensor.float() for name, tensor in rounded.items()}))
    )
    assert all(tensor.dtype == torch.float32 and torch.equal(tensor, theirs[n]) for n, tensor in ours.items())


@pytest.mark.parametrize("scale", ["scaled_fp8", f"{UNET}out.2.scale_weight", f"{UNET}out.2.weight_scale"])
def test_float8_with_scales_is_refused(scale, tensors, stored):
    source = stored(in_float8(tensors["sd1"], UNET) | {scale: torch.ones(1)})
    assert f"its {scale} is a scale: quantised weights are not read" in said(source)


def test_parts_may_be_stored_in_different_precisions(tensors, stored, sd1):
    mixed = {n: t.bfloat16() if n.startswith("cond") else t.half() for n, t in tensors["sd1"].items()}
    bundle = load(stored(mixed), device="cpu", config_folder=sd1.root)
    wanted = {n.split("transformer.")[1]: t.float() for n, t in mixed.items() if n.startswith("cond")}
    encoder = bundle.towers[0].encoder.state_dict()
    assert all(torch.equal(encoder[n] if n in encoder else encoder[n[11:]], t) for n, t in wanted.items())


WHAT_TRAINING_LEAVES = {
    "betas": torch.zeros(1000),
    "alphas_cumprod": torch.zeros(1000),
    "denoiser.sigmas": torch.zeros(1000),
    "model_ema.decay": torch.tensor(0.9),
    "model_ema.diffusion_modelout2bias": torch.ones(4),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77.0)[None],
}


def test_what_training_leaves_in_a_file_changes_nothing(tensors, stored, sd1):
    source = stored(tensors["sd1"] | WHAT_TRAINING_LEAVES)
    bundle = load(source, device="cpu", config_folder=sd1.root)
    for ours, theirs in ((bundle.unet, sd1.unet), (bundle.towers[0].encoder, sd1.towers[0].encoder)):
        assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in ours.state_dict().items())


@pytest.mark.parametrize(
    ("metadata", "marks", "predicts"),
    [
        ({"modelspec.architecture": "stable-diffusion-v1"}, (), "epsilon"),
        ({"modelspec.prediction_type": "epsilon"}, ("v_pred",), "v_prediction"),
        ({"modelspec.predict_key": "v"}, (), "v_prediction"),
        ({"modelspec.predict_key": "v", "modelspec.prediction_type": "epsilon"}, (), "epsilon"),
        ({"modelspec.prediction_type": "of the future"}, (), "epsilon"),
    ],
)
def test_tensors_count_more_than_what_metadata_say(metadata, marks, predicts, tensors, stored):
    facts = describe(stored(tensors["sdxl"] | {mark: torch.zeros(0) for mark in marks}, metadata)).facts
    assert (facts.family, facts.prediction_type) == ("sdxl", predicts)


def test_zero_terminal_snr_chooses_scheduler_and_spacing(tensors, stored, sdxl):
    source = stored(tensors["sdxl"] | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})
    bundle = load(source, device="cpu", config_folder=sdxl.root)
    (result,) = lab.generate(bundle, prompt="a red apple", steps=2, width=32, height=32)
    assert result.record["scheduler"] == "euler"
    scheduler = bundle.pipeline().scheduler.config
    assert scheduler.rescale_betas_zero_snr and scheduler.timestep_spacing == "trailing"
    with pytest.raises(InputError, match="does not rescale its betas"):
        lab.generate(bundle, prompt="a red apple", scheduler="heun", width=32, height=32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("spread", "predicts", "side"), [(0.05, "epsilon", 512), (0.2, "v_prediction", 768)])
def test_of_sd2_a_tensor_tells_what_is_predicted(spread, predicts, side, dtype, tensors, stored, sd2):
    name = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    source = stored(tensors["sd2"] | {name: (spread * torch.tensor([-1.0, 1.0] * 160)).to(dtype)})
    told = describe(source)
    assert (told.facts.prediction_type, told.facts.defaults.width) == (predicts, side)
    assert told.told_by["predicts"] == f"the spread of {name}"
    given = load(source, device="cpu", config_folder=sd2.root)
    assert given.prediction_type == "v_prediction"  # as the given configs say


@pytest.mark.parametrize("name", ["edm_mean", "edm_vpred.sigma_max"])
def test_other_noise_is_told(name, tensors, stored):
    assert f"its tensor {name} says that it was trained on the noise of EDM" in said(
        stored(tensors["sdxl"] | {name: torch.ones(4)})
    )


def test_an_lcm_is_sampled_as_one(tensors, stored, sd1, tmp_path):
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    source = stored(tensors["sd1"] | {f"{UNET}time_embed.cond_proj.weight": weight})
    bundle = load(source, device="cpu", config_folder=sd1.root)
    assert torch.equal(bundle.unet.time_embedding.cond_proj.weight, weight)
    assert (bundle.defaults.scheduler, describe(source).told_by["distilled with guidance"][:6]) == (
        "lcm",
        "tensor",
    )
    settings = {"prompt": "a red apple", "steps": 2, "width": 32, "height": 32}
    strong, weak = (lab.generate(bundle, guidance=scale, **settings)[0].latents for scale in (8, 2))
    assert not torch.equal(strong, weak)
    assert isinstance(bundle.unet, UNet2DConditionModel)


ALONE = {
    "double_blocks.0.img_attn.qkv.weight": "a Flux model",
    f"{UNET}double_blocks.0.img_attn.qkv.weight": "a Flux model",
    f"{UNET}joint_blocks.0.x": "an SD3 model",
    f"{UNET}cap_embedder.0.weight": "a diffusion transformer",
    f"{UNET}blocks.0.self_attn.q.weight": "a diffusion transformer",
    "transformer_blocks.0.img_mod.1.weight": "a diffusion transformer",
    f"{UNET}clip_txt_pooled_mapper.weight": "a Stable Cascade model",
    "control_model.zero_convs.0.0.weight": "a ControlNet, not a model; give it by --controlnet",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet, not a model; give it by --controlnet",
    "lora_controlnet": "a Control-LoRA, not a model",
    "text_model.encoder.layers.0.mlp.fc1.bias": "a text encoder alone, not a model",
    "down_blocks.0.resnets.0.conv1.weight": "a U-Net alone",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": "a LoRA, not a model",
    "lora_unet_x.hada_w1_a": "a LyCORIS file",
}


@pytest.mark.parametrize("name", ALONE)
def test_what_is_no_model_is_told(name, stored):
    assert ALONE[name] in said(stored({name: torch.zeros(2, 2), "other": torch.zeros(2)}))


@pytest.mark.parametrize("channels", [8, 9])
def test_models_that_read_an_image_are_told(channels, tensors, stored):
    first = {f"{UNET}input_blocks.0.0.weight": torch.zeros(16, channels, 3, 3)}
    assert f"takes {channels} channels" in said(stored(tensors["sdxl"] | first))


def test_a_distilled_unet_is_told(tensors, stored, sdxl):
    fewer = {n: t for n, t in tensors["sdxl"].items() if "transformer_blocks.1." not in n}
    told = said(stored(fewer), config_folder=sdxl.root)
    assert (
        "its unet lacks" in told and "if it was made smaller, give its own configs by --config-folder" in told
    )


def test_nothing_is_imported_that_windows_lacks():
    """Modules of Python's that are there on POSIX systems alone."""
    lacking = r"^\s*(import|from) (fcntl|grp|posix|pwd|resource|syslog|termios|tty)\b"
    for path in Path(lab.__file__).parent.rglob("*.py"):
        assert not re.search(lacking, path.read_text(encoding="utf-8"), re.MULTILINE), path
