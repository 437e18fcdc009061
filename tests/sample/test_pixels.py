"""Latents to images in the precision that suits the U-Net's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.sample.pixels import decode


@pytest.fixture
def latents():
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def decoded(bundle, latents):
    return np.stack([np.asarray(image, dtype=float) for image in decode(bundle, latents)])


def test_beside_bfloat16_the_vae_multiplies_in_it_and_images_hardly_differ(emoji, latents):
    exact, low = decoded(emoji, latents), decoded(replace(emoji, dtype=torch.bfloat16), latents)
    assert not np.array_equal(exact, low)
    assert 10 * np.log10(255**2 / np.square(exact - low).mean()) > 45


def test_beside_float16_the_vae_stays_in_float32(emoji, latents):
    exact, beside = decoded(emoji, latents), decoded(replace(emoji, dtype=torch.float16), latents)
    assert np.array_equal(exact, beside)
