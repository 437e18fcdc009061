import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from lab.errors import InputError
from lab.models.load import load
from lab.score.clip import MEAN, Preparation, load_clip


@pytest.fixture(scope="module")
def whole(sd1, tmp_path_factory):
    """A folder with a CLIPModel whose text half is the SD 1.x model's text encoder."""
    folder = tmp_path_factory.mktemp("clip") / "whole"
    encoder = sd1.towers[0].encoder
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=encoder.config.to_dict(),
        vision_config=vision | {"image_size": 24, "patch_size": 8},
        projection_dim=encoder.config.projection_dim,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
    model.text_model.load_state_dict(getattr(encoder, "text_model", encoder).state_dict())
    model.save_pretrained(folder)
    sd1.towers[0].tokenizer.save_pretrained(folder)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2], "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def bundle(sd1_folder, whole, tmp_path):
    """The SD 1.x model with the vision half beside it."""
    folder = shutil.copytree(sd1_folder, tmp_path / "model")
    shutil.copytree(whole, folder / "clip", ignore=shutil.ignore_patterns("*token*"))
    tensors = load_file(whole / "model.safetensors")
    vision = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_model.")}
    save_file(vision, folder / "clip/model.safetensors")
    return load(folder, device="cpu")


def features(clip):
    pixels = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    tokens = clip.tokenizer(["a red apple", "cat"], padding=True, return_tensors="pt")
    return clip.model(pixel_values=pixels, **tokens)


def test_text_encoder_and_vision_half_make_the_whole_model_again(bundle, whole):
    joined, reference = load_clip(bundle), load_clip(whole)
    assert torch.equal(features(joined).logits_per_image, features(reference).logits_per_image)
    assert joined.prepare == reference.prepare == Preparation(24, (0.5, 0.4, 0.3), (0.2,) * 3, "bilinear")


def test_the_text_encoder_is_shared_not_copied(bundle):
    tables = load_clip(bundle).model.state_dict(), bundle.towers[0].encoder.state_dict()
    places = [next(t for n, t in table.items() if "token_embedding" in n).data_ptr() for table in tables]
    assert places[0] == places[1]


@pytest.mark.parametrize("left", [None, {"image_mean": None, "image_std": None, "resample": None}])
def test_without_its_own_preparation_a_model_follows_openai(bundle, left):
    path = bundle.clip_folder / "preprocessor_config.json"
    path.write_text(json.dumps(left)) if left else path.unlink()
    clip = load_clip(bundle)
    assert (clip.prepare.mean, clip.prepare.mode) == (MEAN, "bicubic")


def test_the_bundled_model_has_a_clip(emoji):
    clip = load_clip(emoji)
    assert clip.model.config.vision_config.image_size == clip.prepare.side
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in clip.model.parameters())


def test_models_without_the_other_half_are_refused(sd2, bundle, tmp_path):
    with pytest.raises(InputError, match="comes without CLIP's vision half"):
        load_clip(sd2)
    with pytest.raises(InputError, match="no CLIPModel's folder"):
        load_clip(tmp_path)
    path = bundle.clip_folder / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "visual" not in name}, path)
    with pytest.raises(InputError, match=r"visual_projection\.weight is lacking"):
        load_clip(bundle)
