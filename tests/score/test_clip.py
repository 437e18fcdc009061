import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from lab.images import to_tensor
from lab.score.clip import Preparation

TEXTS = ["a red apple on white", "blue dog", "a " + "very " * 100 + "long cat"]


def test_preparation_is_pillows():
    array = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    mean, std = (0.48, 0.45, 0.40), (0.26, 0.26, 0.27)
    resized = image.resize((42, 28), Image.Resampling.BICUBIC).crop((7, 0, 35, 28))
    expected = (torch.from_numpy(np.asarray(resized) / 255.0) - torch.tensor(mean)) / torch.tensor(std)
    actual = Preparation(28, mean, std)(to_tensor([image]))
    assert (
        actual[0] - expected.permute(2, 0, 1)
    ).abs().max() < 3 / 255 / 0.26  # Pillow rounds to bytes, twice


def test_features_are_transformers(clip, clip_folder, pixels):
    model, words = CLIPModel.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    tokens = words(TEXTS, padding=True, truncation=True, return_tensors="pt")
    prepared = Preparation(28, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))(
        pixels
    )
    with torch.no_grad():
        output = model(pixel_values=prepared, **tokens)
    torch.testing.assert_close(clip.images(pixels), output.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.texts(TEXTS), output.text_embeds, atol=1e-5, rtol=0)
    logits = clip.scale * clip.images(pixels) @ clip.texts(TEXTS).T
    torch.testing.assert_close(logits, output.logits_per_image, atol=1e-4, rtol=0)


def test_each_distinct_text_is_encoded_once(clip, monkeypatch):
    asked = []
    encode = clip.model.get_text_features

    def counting(input_ids, **others):
        asked.append(len(input_ids))
        return encode(input_ids, **others)

    monkeypatch.setattr(clip.model, "get_text_features", counting)
    clip.texts(["one", "two", "one"])
    clip.texts(["two", "three"])
    assert asked == [2, 1]


def test_gradients_reach_the_pixels(clip, pixels):
    pixels = pixels.requires_grad_()
    (clip.images(pixels) * clip.texts(["a cat"] * 4)).sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum(dim=(1, 2, 3)).min() > 0


@pytest.mark.parametrize("size", [(28, 28), (28, 90), (300, 31)])
def test_any_size_fits(clip, size):
    assert clip.images(torch.rand(1, 3, *size)).shape == (1, 24)
