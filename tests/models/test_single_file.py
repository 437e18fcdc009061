import hashlib
import shutil

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig

from lab.errors import InputError
from lab.models.describe import describe
from lab.models.family import FAMILIES as FAMILY_TRAITS
from lab.models.folder import encoder_class, read_tokenizer
from lab.models.load import load
from lab.models.single_file import CLIP_VOCABULARY, CONFIGS, gather_configs
from tests.ldm import write_checkpoint

FAMILIES = ["sd1", "sd2", "sdxl"]


@pytest.fixture(scope="module")
def checkpoints(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {f: write_checkpoint(request.getfixturevalue(f), folder / f"{f}.safetensors") for f in FAMILIES}


def test_a_checkpoint_of_another_family_is_named(tmp_path):
    names = ("model.diffusion_model.joint_blocks.0.x.bias", "first_stage_model.decoder.conv_in.weight")
    save_file({name: torch.zeros(4) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"x\.safetensors: an SD3 model; the lab reads"):
        load(f"file:{tmp_path}/x.safetensors", device="cpu")


def states(bundle):
    modules = [bundle.unet, bundle.vae, *(tower.encoder for tower in bundle.towers)]
    return [module.state_dict() for module in modules]


def picture(bundle):
    return bundle.pipeline()(
        "a red apple, 3 cats",
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_model_as_one_file_is_the_same_model(family, checkpoints, request):
    original = request.getfixturevalue(family)
    loaded = load(f"file:{checkpoints[family]}", config_folder=original.root, device="cpu")
    assert loaded.family == family
    assert loaded.prediction_type == original.prediction_type
    assert [tower.key for tower in loaded.towers] == [tower.key for tower in original.towers]
    assert [tower.pad_token_id for tower in loaded.towers] == [
        tower.pad_token_id for tower in original.towers
    ]
    for ours, theirs in zip(states(loaded), states(original), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (picture(loaded) == picture(original)).all()


def test_loading_a_file_says_nothing(checkpoints, sd1, capfd):
    bundle = load(f"file:{checkpoints['sd1']}", config_folder=sd1.root, device="cpu", dtype="bfloat16")
    assert bundle.unet.dtype == torch.bfloat16
    assert capfd.readouterr() == ("", "")


def test_the_hash_of_a_file_is_the_files_own(checkpoints, sd1):
    loaded = load(f"file:{checkpoints['sd1']}", config_folder=sd1.root, device="cpu")
    assert loaded.hash == hashlib.sha256(checkpoints["sd1"].read_bytes()).hexdigest()


def test_prediction_type_comes_from_override_then_file_then_configs(sdxl, sd2, checkpoints, tmp_path):
    marked = write_checkpoint(sdxl, tmp_path / "v.safetensors", v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    bundle = load(f"file:{marked}", config_folder=sdxl.root, device="cpu")
    assert bundle.facts.prediction_type == "v_prediction"
    assert bundle.scheduler_config["rescale_betas_zero_snr"]
    bundle = load(f"file:{marked}", config_folder=sdxl.root, device="cpu", prediction_type="epsilon")
    assert bundle.prediction_type == "epsilon"
    bundle = load(
        f"file:{checkpoints['sd2']}", config_folder=sd2.root, device="cpu", prediction_type="epsilon"
    )
    assert bundle.prediction_type == "epsilon"


def test_a_vocabulary_alone_is_taken_for_every_tokenizer_with_the_familys_padding(sdxl, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(sdxl.root / "tokenizer" / name, tmp_path / name)
    gather_configs(tmp_path / "configs", "sdxl", tmp_path)
    first, second = (read_tokenizer(tmp_path / "configs" / name) for name in ("tokenizer", "tokenizer_2"))
    assert first.get_vocab() == second.get_vocab() == sdxl.towers[0].tokenizer.get_vocab()
    assert (first.pad_token_id, second.pad_token_id) == (first.eos_token_id, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_clips_own_vocabulary_ships_and_gives_its_published_tokens(family, tmp_path):
    gather_configs(tmp_path, family, None)
    for suffix in FAMILY_TRAITS[family].suffixes:
        tokenizer = read_tokenizer(tmp_path / f"tokenizer{suffix}")
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert tokenizer.model_max_length == 77
        assert len(tokenizer) == 49408
    assert "MIT License" in (CLIP_VOCABULARY / "LICENSE").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_configs_have_the_published_shapes(family):
    """Parameter counts of the published models, in millions: U-Net, VAE, text encoders."""
    published = {"sd1": (859.5, 83.7, 123.1), "sd2": (865.9, 83.7, 340.4), "sdxl": (2567.5, 83.7, 817.7)}
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGS / family / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIGS / family / "vae"))
        text = [
            encoder_class(suffix)(CLIPTextConfig.from_pretrained(CONFIGS / family / f"text_encoder{suffix}"))
            for suffix in FAMILY_TRAITS[family].suffixes
        ]
    counts = [
        sum(p.numel() for module in part for p in module.parameters()) / 1e6 for part in ([unet], [vae], text)
    ]
    assert counts == pytest.approx(published[family], abs=0.06)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("model.diffusion_model.", "no U-Net"),
        ("first_stage_model.", "no VAE"),
        ("cond_stage_model.", "no text encoder"),
    ],
)
def test_files_that_lack_a_part_say_which(part, said, checkpoints, tmp_path):
    tensors = {name: t for name, t in load_file(checkpoints["sd1"]).items() if not name.startswith(part)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=said):
        load(f"file:{tmp_path / 'x.safetensors'}", device="cpu")


def test_files_that_lack_a_tensor_or_have_other_shapes_are_refused(checkpoints, sd1, sd2, tmp_path):
    tensors = load_file(checkpoints["sd1"])
    path = tmp_path / "x.safetensors"
    save_file({name: t for name, t in tensors.items() if "middle_block.1.proj_in" not in name}, path)
    with pytest.raises(InputError, match=r"lacks|does not fit"):
        load(f"file:{path}", config_folder=sd1.root, device="cpu")
    with pytest.raises(InputError, match="--config-folder"):
        load(f"file:{checkpoints['sd1']}", config_folder=sd2.root, device="cpu")


def test_inpainting_models_are_refused(checkpoints, tmp_path):
    name = "model.diffusion_model.input_blocks.0.0.weight"
    tensors = load_file(checkpoints["sd1"])
    save_file(tensors | {name: torch.zeros(16, 9, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="takes 9 channels"):
        load(f"file:{tmp_path / 'x.safetensors'}", device="cpu")


def without(tensors, *prefixes):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


VAE_NAMES = {".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.", ".proj_out.": ".to_out.0."}


def diffusers_attention(name):
    for ours, theirs in VAE_NAMES.items():
        name = name.replace(f".attn_1{ours}", f".attn_1{theirs}")
    return name


@pytest.mark.parametrize(
    "rename",
    [lambda name: name.replace("transformer.text_model.", "transformer."), diffusers_attention],
    ids=["no text_model", "VAE attention by diffusers' names"],
)
def test_other_names_of_the_same_tensors(rename, checkpoints, sd1, tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = load_file(checkpoints["sd1"])
    save_file({rename(name): tensor for name, tensor in tensors.items()}, path)
    assert any(rename(name) != name for name in tensors)
    loaded = load(f"file:{path}", config_folder=sd1.root, device="cpu")
    for ours, theirs in zip(states(loaded), states(sd1), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_file_without_a_vae_takes_the_given_one_or_says_where_to_get_one(checkpoints, sd1, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(without(load_file(checkpoints["sd1"]), "first_stage_model."), path)
    loaded = load(f"file:{path}", config_folder=sd1.root, device="cpu", vae=str(sd1.root))
    assert (picture(loaded) == picture(sd1)).all()
    with pytest.raises(InputError, match="no VAE; give one by --vae, such as hub:"):
        load(f"file:{path}", config_folder=sd1.root, device="cpu")


def test_a_missing_tensor_is_told_by_name(checkpoints, sd1, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(without(load_file(checkpoints["sd1"]), "model.diffusion_model.out.2.bias"), path)
    with pytest.raises(
        InputError, match=r"its unet lacks 1 tensors of Stable Diffusion 1.x, among them conv_out\.bias"
    ):
        load(f"file:{path}", config_folder=sd1.root, device="cpu")


def test_modelspec_says_what_is_predicted(checkpoints, sdxl, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(load_file(checkpoints["sdxl"]), path, {"modelspec.prediction_type": "v"})
    assert load(f"file:{path}", config_folder=sdxl.root, device="cpu").facts.prediction_type == "v_prediction"
    assert describe(f"file:{path}").facts.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"lora_unet_x.lora_up.weight": torch.zeros(4, 4)}, "a LoRA, not a model; give it by --lora"),
        ({"emb_params": torch.ones(2, 768)}, "a textual-inversion embedding, not a model"),
        ({"model_ema.diffusion_modelout2bias": torch.zeros(4)}, "EMA"),
        (
            {
                "model.diffusion_model.out.2.bias": torch.zeros(4),
                "conditioner.embedders.0.model.ln_final.bias": torch.zeros(4),
            },
            "an SDXL refiner",
        ),
    ],
)
def test_what_is_no_model_is_called_by_its_name(tensors, said, tmp_path):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=said):
        load(f"file:{tmp_path / 'x.safetensors'}", device="cpu")


@pytest.mark.parametrize(
    "data, said",
    [
        (b"GGUF\x03" + bytes(64), "a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>login", "a web page"),
    ],
)
def test_files_that_only_have_the_suffix(data, said, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=said):
        load(f"file:{tmp_path / 'x.safetensors'}", device="cpu")


UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."


@pytest.mark.parametrize(
    "renamed",
    [
        lambda name: name.replace(f"{TEXT}transformer.", f"{TEXT}clip_l.transformer."),
        lambda name: f"model.{name}",
    ],
)
def test_names_that_other_tools_write_are_the_same_model(checkpoints, sd1, tmp_path, renamed):
    tensors = load_file(checkpoints["sd1"])
    save_file({renamed(name): tensor for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    loaded = load(f"file:{tmp_path}/x.safetensors", config_folder=sd1.root, device="cpu")
    for ours, theirs in zip(states(loaded), states(sd1), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert sum(describe(f"file:{tmp_path}/x.safetensors").parameters.values()) > 0


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (lambda name: name if name.startswith(UNET) else None, "a U-Net alone"),
        (lambda name: name.removeprefix(UNET) if name.startswith(UNET) else None, "a U-Net alone"),
        (lambda name: name if name.startswith(VAE) else None, "a VAE alone; give it by --vae"),
        (
            lambda name: name.removeprefix(VAE) if name.startswith(VAE) else None,
            "a VAE alone; give it by --vae",
        ),
        (lambda name: name.replace(f"{TEXT}transformer.", f"{TEXT}clip_g.transformer."), "ComfyUI"),
    ],
)
def test_parts_of_a_model_are_called_by_their_names(checkpoints, tmp_path, kept, said):
    tensors = {kept(name): tensor for name, tensor in load_file(checkpoints["sd1"]).items() if kept(name)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=said):
        describe(f"file:{tmp_path}/x.safetensors")
