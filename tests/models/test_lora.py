import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.errors import InputError
from lab.models.config import split_lora
from lab.models.load import load

UNET_LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
TEXT_LAYER = "encoder.layers.0.self_attn.out_proj"
RANK, ALPHA = 2, 1.0


def deltas(bundle):
    """Random low-rank factors (down, up) for a layer of the U-Net and one of the first text encoder."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for part, layer in (("unet", UNET_LAYER), ("text", TEXT_LAYER)):
        rows, columns = weights(bundle)[part].shape
        down, up = (
            torch.randn(RANK, columns, generator=generator),
            torch.randn(rows, RANK, generator=generator),
        )
        found[part] = (layer, down, up)
    return found


def weights(bundle):
    encoder = bundle.towers[0].encoder
    text = getattr(encoder, "text_model", encoder)
    layers = {"unet": bundle.unet.get_submodule(UNET_LAYER), "text": text.get_submodule(TEXT_LAYER)}
    return {part: layer.weight for part, layer in layers.items()}


def write_kohya(bundle, path):
    """As kohya's sd-scripts save it: flat names, an alpha a layer."""
    text = "lora_te1" if bundle.family == "sdxl" else "lora_te"
    tensors = {}
    for part, (layer, down, up) in deltas(bundle).items():
        name = f"lora_unet_{layer}" if part == "unet" else f"{text}_text_model_{layer}"
        name = name.replace(".", "_")
        alpha = torch.tensor(ALPHA)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
    save_file(tensors, path)
    return ALPHA / RANK


def write_diffusers(bundle, path):
    """As diffusers and peft save it: no alpha, so that it equals the rank."""
    tensors = {}
    for part, (layer, down, up) in deltas(bundle).items():
        name = f"unet.{layer}" if part == "unet" else f"text_encoder.text_model.{layer}"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(tensors, path)
    return 1.0


@pytest.mark.parametrize("write", [write_kohya, write_diffusers])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_lora_adds_its_low_rank_product_and_nothing_else(write, family, request, tmp_path):
    plain = request.getfixturevalue(family)
    factor = write(plain, tmp_path / "x.safetensors")
    bundle = load(plain.root, device="cpu", lora=[f"{tmp_path / 'x.safetensors'}=0.5"])
    for part, (_, down, up) in deltas(plain).items():
        expected = weights(plain)[part] + 0.5 * factor * up @ down
        torch.testing.assert_close(weights(bundle)[part], expected, atol=1e-5, rtol=1e-5)
    for ours, theirs, layer in [
        (bundle.unet, plain.unet, UNET_LAYER),
        (bundle.towers[0].encoder, plain.towers[0].encoder, TEXT_LAYER),
    ]:
        ours, theirs = ours.state_dict(), theirs.state_dict()
        assert ours.keys() == theirs.keys()
        changed = [name for name in ours if not torch.equal(ours[name], theirs[name])]
        assert len(changed) == 1
        assert changed[0].endswith(f"{layer}.weight")
    assert bundle.hash != plain.hash


def test_two_loras_add_up(sd1, tmp_path):
    path = tmp_path / "x.safetensors"
    write_diffusers(sd1, path)
    once, twice = (
        load(sd1.root, device="cpu", lora=loras) for loras in ([f"{path}=1.5"], [f"{path}", f"{path}=0.5"])
    )
    for part in ("unet", "text"):
        torch.testing.assert_close(weights(once)[part], weights(twice)[part], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "names",
    [
        ("weight", "bias"),
        ("unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"),
        (f"unet.{UNET_LAYER}.lora_A.weight", f"unet.{UNET_LAYER}.lora_B.weight"),
        ("text_encoder_2.absent.lora_A.weight", "text_encoder_2.absent.lora_B.weight"),
    ],
    ids=["no LoRA", "other kind of layer", "other width", "other family"],
)
def test_what_is_no_lora_for_the_model_is_refused(names, sd1, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({names[0]: torch.zeros(RANK, 96), names[1]: torch.zeros(48, RANK)}, path)
    with pytest.raises(InputError, match="LoRA") as raised:
        load(sd1.root, device="cpu", lora=[str(path)])
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_lora_file_that_is_not_there_is_named(sd1):
    with pytest.raises(InputError, match=r"absent\.safetensors: no such file"):
        load(sd1.root, device="cpu", lora=["absent.safetensors"])


def test_scales_are_read_behind_the_last_equals_sign():
    path, scale = split_lora("a=b.safetensors=-0.25")
    assert (str(path), scale) == ("a=b.safetensors", -0.25)
    assert split_lora("x.safetensors")[1] == 1
    for scale in ("nan", "inf", "-inf", "1e999"):
        with pytest.raises(InputError, match=f"'{scale}' is not a scale"):
            split_lora(f"a.safetensors={scale}")
    with pytest.raises(InputError, match="'strong' is not a scale"):
        split_lora("x.safetensors=strong")


def test_a_lora_with_a_bundled_embedding_loads(sd1, tmp_path):
    path = tmp_path / "my=lora.safetensors"
    write_diffusers(sd1, path)
    alone = load(sd1.root, device="cpu", lora=[str(path)])
    save_file(load_file(path) | {"bundle_emb.cat.clip_l": torch.ones(2, 768)}, path)
    bundled = load(sd1.root, device="cpu", lora=[str(path)])
    for part in ("unet", "text"):
        assert torch.equal(weights(bundled)[part], weights(alone)[part])


@pytest.mark.parametrize(
    ("name", "columns", "said"),
    [
        (f"unet.{UNET_LAYER}", 96, "its tensors do not fit the model's layers by name and shape"),
        ("unet.nowhere.attn1.to_q", 32, "its tensors do not fit the model's layers by name and shape"),
        ("double_blocks.0.img_attn.proj", 32, "a LoRA for a transformer such as Flux or SD3; the lab reads"),
        ("transformer.single_transformer_blocks.0.attn.to_q", 32, "a LoRA for a transformer"),
    ],
)
def test_a_lora_that_does_not_fit_is_told_in_words(sd1, tmp_path, name, columns, said):
    path = tmp_path / "x.safetensors"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, columns), f"{name}.lora_B.weight": torch.ones(32, 2)}, path
    )
    with pytest.raises(InputError, match=said):
        load(sd1.root, device="cpu", lora=[str(path)])


def test_a_damaged_lora_is_named_itself(sd1, tmp_path):
    path = tmp_path / "x.safetensors"
    write_diffusers(sd1, path)
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match=rf"^{path}: its .* holds NaN or infinity: the LoRA is damaged"):
        load(sd1.root, device="cpu", lora=[str(path)])


@pytest.mark.parametrize("scale", ["nan", "inf"])
def test_scales_are_finite(scale):
    with pytest.raises(InputError, match="is not a scale"):
        split_lora(f"x.safetensors={scale}")


@pytest.mark.parametrize(
    "name, said", [("x.hada_w1_a", "LyCORIS is not supported"), ("emb_params", "embedding")]
)
def test_other_files_given_as_lora_are_called_by_their_name(name, said, sd1_folder, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({name: torch.ones(2, 768)}, path)
    with pytest.raises(InputError, match=said):
        load(sd1_folder, device="cpu", lora=[str(path)])
