"""Latents to images in the precision that suits the U-Net's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from lab.sample.pixels import decode_images, vae_precision


@pytest.fixture
def latents(emoji):
    shape = 2, emoji.unet.config.in_channels, 16, 16
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def decoded(bundle, latents):
    return np.stack([np.asarray(image, dtype=float) for image in decode_images(bundle, latents)])


def test_beside_bfloat16_the_vae_multiplies_in_it_and_images_hardly_differ(emoji, latents):
    exact, low = decoded(emoji, latents), decoded(replace(emoji, dtype=torch.bfloat16), latents)
    assert not np.array_equal(exact, low)
    assert 10 * np.log10(255**2 / np.square(exact - low).mean()) > 45


def test_beside_float16_the_vae_stays_in_float32_on_a_cpu(emoji, latents):
    exact, beside = decoded(emoji, latents), decoded(replace(emoji, dtype=torch.float16), latents)
    assert np.array_equal(exact, beside)


@pytest.mark.parametrize(
    ("family", "bf16", "expected"),
    [
        ("sd1", True, torch.float16),
        ("sd1", False, torch.float16),
        ("sdxl", True, torch.bfloat16),  # its VAE overflows in float16
        ("sdxl", False, torch.float32),
    ],
)
def test_beside_float16_on_a_gpu(family, bf16, expected, request, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16)
    bundle = request.getfixturevalue(family)
    assert bundle.vae.config.force_upcast  # SD 1.x has it too, where its config says nothing
    assert vae_precision(replace(bundle, dtype=torch.float16, device=torch.device("cuda"))) == expected


def test_what_overflows_in_half_precision_is_decoded_again_in_float32(emoji, latents, monkeypatch):
    exact, decode_as_it_is = decoded(emoji, latents), type(emoji.vae).decode

    def overflowing(vae, given, return_dict):
        (made,) = decode_as_it_is(vae, given, return_dict=return_dict)
        return (made + float("inf") if torch.is_autocast_enabled("cpu") else made,)

    monkeypatch.setattr(type(emoji.vae), "decode", overflowing)
    assert np.array_equal(exact, decoded(replace(emoji, dtype=torch.bfloat16), latents))


def test_pixels_are_rounded_as_diffusers_rounds_them(emoji, monkeypatch):
    """Halves to the even byte: 0.5 / 255 becomes 0, 1.5 / 255 becomes 2."""
    halves = (torch.arange(256 * 12) / 12 / 255).view(1, 3, 32, 32) * 2 - 1
    monkeypatch.setattr(type(emoji.vae), "decode", lambda *_, **__: (halves,))
    pixels = VaeImageProcessor().postprocess(halves, output_type="pil")
    assert np.array_equal(decoded(emoji, torch.zeros(1, 4, 4, 4)), np.asarray(pixels[0])[None])
