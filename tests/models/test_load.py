import json
import shutil

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file

import lab
from lab.errors import InputError
from lab.models.config import ModelOptions
from lab.models.load import load, load_options
from tests.ldm import write_checkpoint

FAMILIES = ["sd1", "sd2", "sdxl"]
flat_names = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.6"),
    reason="older transformers read only their own spelling",
)
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(sd1_folder, tmp_path):
    """A copy of a model that a test may damage."""
    return shutil.copytree(sd1_folder, tmp_path / "model")


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_told_apart_by_their_configs(family, request):
    assert request.getfixturevalue(family).family == family


def test_facts_of_each_family(sd1, sd2, sdxl):
    assert [b.prediction_type for b in (sd1, sd2, sdxl)] == ["epsilon", "v_prediction", "epsilon"]
    assert [[tower.key for tower in b.towers] for b in (sd1, sd2, sdxl)] == [
        ["clip"],
        ["clip"],
        ["clip_l", "clip_g"],
    ]
    assert [b.defaults.scheduler for b in (sd1, sd2, sdxl)] == ["pndm", "ddim", "euler"]
    assert [b.defaults.guidance for b in (sd1, sd2, sdxl)] == [7, 7, 5]
    assert [(b.defaults.width, b.vae_scale) for b in (sd1, sd2, sdxl)] == [(32, 4), (16, 2), (32, 4)]
    assert [b.force_zeros_for_empty_prompt for b in (sd1, sd2, sdxl)] == [False, False, True]
    end = sd1.towers[0].tokenizer.eos_token_id
    assert [tower.pad_token_id for b in (sd1, sd2, sdxl) for tower in b.towers] == [end, 0, end, 0]
    assert all(tower.context_length == 77 for b in (sd1, sd2, sdxl) for tower in b.towers)


def test_the_bundled_model_loads_by_its_name_and_completes_a_clip(emoji):
    assert emoji.family == "sd1"
    assert emoji.prediction_type == "v_prediction"
    assert emoji.scheduler_config["rescale_betas_zero_snr"]
    assert (emoji.clip_folder / "model.safetensors").is_file()


def test_modules_are_frozen_and_in_evaluation_mode(sdxl):
    for module in (sdxl.unet, sdxl.vae, *(tower.encoder for tower in sdxl.towers)):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_loading_says_nothing(folder, capfd):
    tensors = load_file(folder / "text_encoder/model.safetensors")
    save_file(tensors | {"position_ids": torch.arange(77)[None]}, folder / "text_encoder/model.safetensors")
    load(folder, device="cpu").pipeline()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("prefix", ["text_model.", pytest.param("", marks=flat_names)])
def test_text_encoders_saved_by_old_and_new_transformers_are_the_same(folder, sd1, prefix):
    path = folder / "text_encoder/model.safetensors"
    tensors = load_file(path)
    save_file({prefix + name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}, path)
    ours, theirs = (b.towers[0].encoder.state_dict() for b in (load(folder, device="cpu"), sd1))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_prediction_type_can_be_overridden(sd1_folder):
    bundle = load(sd1_folder, device="cpu", prediction_type="v_prediction")
    assert bundle.prediction_type == "v_prediction"
    assert bundle.pipeline().scheduler.config.prediction_type == "v_prediction"


def test_the_models_generation_config_comes_first(folder):
    settings = {"steps": 9, "guidance": 4.5, "guidance_interval": [0.2, 0.8], "width": 64}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    defaults = load(folder, device="cpu").defaults
    assert (defaults.steps, defaults.guidance, defaults.guidance_interval) == (9, 4.5, (0.2, 0.8))
    assert (defaults.width, defaults.height) == (64, 32)


def test_a_part_without_the_variant_is_taken_plain(folder, sd1):
    shutil.move(folder / UNET_FILE, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    bundle = load(folder, device="cpu", variant="fp16")
    assert torch.equal(bundle.unet.conv_in.weight, sd1.unet.conv_in.weight)
    with pytest.raises(
        InputError, match=r"without unet/\*\.safetensors; it has variants: use --variant fp16"
    ):
        load(folder, device="cpu")


def test_hash_follows_every_weight(folder, sd1):
    assert load(folder, device="cpu").hash == sd1.hash
    assert len(sd1.short_hash) == 10
    path = folder / "text_encoder/model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    assert load(folder, device="cpu").hash != sd1.hash


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unet/config.json", "unet/config.json"),
        ("text_encoder/config.json", "text_encoder/config.json"),
        ("vae/config.json", "vae/config.json"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json"),
        (UNET_FILE, r"unet/\*\.safetensors"),
        ("vae/diffusion_pytorch_model.safetensors", r"vae/\*\.safetensors"),
        ("text_encoder/model.safetensors", r"text_encoder/\*\.safetensors"),
    ],
)
def test_a_missing_part_is_named(folder, name, said):
    (folder / name).unlink()
    with pytest.raises(InputError, match=said):
        load(folder, device="cpu")


def test_a_missing_tokenizer_is_named(folder):
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(InputError, match=r"tokenizer/tokenizer\.json"):
        load(folder, device="cpu")


def test_pickled_weights_are_refused_with_a_way_out(folder):
    shutil.move(folder / UNET_FILE, folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="safe_serialization=True"):
        load(folder, device="cpu")


@pytest.mark.parametrize("keep", [0, 4, 5000, -1])
def test_truncated_weights_are_one_line(folder, keep):
    path = folder / UNET_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"damaged or not a safetensors file|an empty file") as raised:
        load(folder, device="cpu")
    assert "\n" not in str(raised.value)


def test_weights_that_lack_a_tensor_are_refused(folder):
    for path, name in [("text_encoder/model.safetensors", "q_proj"), (UNET_FILE, "conv_in.weight")]:
        tensors = load_file(folder / path)
        save_file({key: tensor for key, tensor in tensors.items() if name not in key}, folder / path)
        with pytest.raises(InputError, match=path.split("/")[0]) as raised:
            load(folder, device="cpu")
        assert "\n" not in str(raised.value)
        save_file(tensors, folder / path)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_weights_of_other_shapes_than_the_config_are_refused(folder, part):
    key = {"unet": "cross_attention_dim", "text_encoder": "vocab_size", "vae": "latent_channels"}[part]
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 48}))
    with pytest.raises(InputError, match=part):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    "pattern", ["unet/config.json", "vae/config.json", "tokenizer/*.json", "model_index.json"]
)
def test_broken_json_is_one_line(folder, pattern):
    for path in folder.glob(pattern):
        path.write_text("{")
    with pytest.raises(InputError, match=pattern.split("/")[0]) as raised:
        load(folder, device="cpu")
    assert "\n" not in str(raised.value)


def test_a_generation_config_with_an_unknown_key_names_the_nearest(folder):
    (folder / "generation_config.json").write_text('{"guidence": 3}')
    with pytest.raises(
        InputError, match=r"generation_config\.json: unknown option 'guidence'; nearest: guidance"
    ):
        load(folder, device="cpu")


def test_models_that_take_more_than_latents_are_refused(folder):
    path = folder / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 9}))
    with pytest.raises(InputError, match="takes 9 channels and gives 4"):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("emojy", "unknown model 'emojy'.*nearest: emoji"),
        ("org/name", "for a model on the hub write hub:org/name$"),
        ("https://huggingface.co/org/name/tree/main", "for a model on the hub write hub:org/name$"),
        (
            "https://huggingface.co/org/name/resolve/main/x.safetensors?download=true",
            "write hub:org/name/x.safetensors$",
        ),
        ("https://huggingface.co/org/name?library=diffusers", "for a model on the hub write hub:org/name$"),
        ("https://example.org/models/4384", "neither bundled nor a folder; known: emoji$"),
        ("C:/models", "neither bundled nor a folder; known: emoji$"),
        ("model.ckpt", "convert it"),
        ("file:model.ckpt", "convert it"),
        ("file:absent.safetensors", "no such file"),
        ("file:.", "leave out 'file:'"),
        (".", "has no unet/config.json"),
    ],
)
def test_bad_sources_say_what_to_do(source, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        load(source, device="cpu")


def test_a_file_without_its_type_is_told_how_to_write_it(tmp_path):
    path = tmp_path / "x.safetensors"
    path.touch()
    with pytest.raises(InputError, match=f"write file:{path}"):
        load(path)


def test_unknown_options_name_the_nearest():
    with pytest.raises(InputError, match="unknown option 'varient'; nearest: variant"):
        load("emoji", varient="fp16")


def test_contents_tell_what_changed_of_a_model(folder):
    before = load(folder, device="cpu").contents()
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_end": 0.013}))
    (folder / "generation_config.json").write_text('{"steps": 7}')
    for file in ("vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"):
        (folder / file).write_text((folder / file).read_text().replace("{", '{"note": 1, ', 1))
    after = load(folder, device="cpu").contents()
    changed = [name for name in before if before[name] != after[name]]
    assert list(before)[:3] == ["model", "generation_config.json", "scheduler_config.json"]
    assert changed == [
        "generation_config.json",
        "scheduler_config.json",
        "text_encoder/config.json",
        "vae/config.json",
        "tokenizer/tokenizer_config.json",
    ]


def test_weights_that_do_not_fit_the_config_are_told_in_words(folder):
    tensors = load_file(folder / UNET_FILE)
    for file, key, value in (
        ("unet/config.json", "cross_attention_dim", 7),
        ("text_encoder/config.json", "vocab_size", 3),
    ):
        text = (folder / file).read_text()
        (folder / file).write_text(json.dumps(json.loads(text) | {key: value}))
        with pytest.raises(InputError, match="its weights have other shapes than its config says"):
            load(folder, device="cpu")
        (folder / file).write_text(text)
    name = "conv_in.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, folder / UNET_FILE, {"format": "pt"})
    with pytest.raises(InputError, match=r"its conv_in\.weight is I8: quantised weights are not read"):
        load(folder, device="cpu")


def test_a_damaged_file_of_the_tokenizer_is_named(folder):
    (folder / "tokenizer" / "tokenizer.json").write_text("null")
    with pytest.raises(InputError, match=r"tokenizer/tokenizer\.json: expected a JSON object"):
        load(folder, device="cpu")


def test_an_embedding_given_as_a_model_is_sent_where_it_belongs(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"x")
    for source in (f"{tmp_path}/x.pt", f"file:{tmp_path}/x.pt"):
        with pytest.raises(InputError, match="an embedding is given by --embedding"):
            load(source)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("single_file", [False, True])
def test_texts_need_text_encoders_alone(family, single_file, request, tmp_path):
    whole = request.getfixturevalue(family)
    options = ModelOptions(model=whole.source, device="cpu")
    if single_file:
        path = write_checkpoint(whole, tmp_path / "x.safetensors")
        save_file({n: t for n, t in load_file(path).items() if not n.startswith("first_stage_model.")}, path)
        options = ModelOptions(model=f"file:{path}", device="cpu", config_folder=whole.root)
    bundle = load_options(options, text_only=True)
    assert {p.device.type for part in (bundle.unet, bundle.vae) for p in part.parameters()} == {"meta"}
    ours, theirs = (lab.encode(b, "a (red:1.3) apple", dialect="a1111") for b in (bundle, whole))
    assert torch.equal(ours.embeds, theirs.embeds)
