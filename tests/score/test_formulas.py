"""Metrics of pixels and of CLIP features against their formulas, written out another way."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, laplace

from lab.score.formulas import cmmd, colourfulness, diversity, sharpness, ssim


def grey(image):
    return np.tensordot([0.299, 0.587, 0.114], image.double().numpy(), axes=1)


def reference_ssim(one, other):
    """Wang et al. 2004 with scipy's filter, cut to where the window of 11 fits."""
    x, y = grey(one), grey(other)

    def local(image):
        return gaussian_filter(image, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean()


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_ssim_is_the_formula(pixels, noise):
    other = (pixels + noise * (pixels.roll(3, dims=-1) - 0.5)).clamp(0, 1)
    expected = [reference_ssim(one, two) for one, two in zip(pixels, other, strict=True)]
    np.testing.assert_allclose(ssim(pixels, other), expected, atol=1e-4)


def test_ssim_of_equal_images_is_one_and_of_inverted_ones_negative(pixels):
    torch.testing.assert_close(ssim(pixels, pixels), torch.ones(4))
    assert (ssim(pixels, 1 - pixels) < 0).all()


def test_ssim_of_images_smaller_than_the_window(pixels):
    small = pixels[..., :8, :8]
    torch.testing.assert_close(ssim(small, small), torch.ones(4))


def test_sharpness_is_the_variance_of_the_laplacian(pixels):
    expected = [laplace(grey(image) * 255)[1:-1, 1:-1].var() for image in pixels]
    np.testing.assert_allclose(sharpness(pixels), expected, rtol=1e-4)


def test_sharpness_falls_with_blur(pixels):
    blurred = torch.nn.functional.avg_pool2d(pixels, 3, 1, 1)
    assert (sharpness(blurred) < sharpness(pixels) / 2).all()


def test_colourfulness_is_the_formula(pixels):
    red, green, blue = (pixels[0].double().numpy() * 255).reshape(3, -1)
    a, b = red - green, (red + green) / 2 - blue
    expected = np.hypot(a.std(), b.std()) + 0.3 * np.hypot(a.mean(), b.mean())
    assert colourfulness(pixels)[0].item() == pytest.approx(expected, rel=1e-4)


def test_grey_has_no_colour():
    assert colourfulness(torch.full((1, 3, 8, 8), 0.4)).item() == pytest.approx(0, abs=1e-3)


def features(count, seed, shift=0.0):
    rows = torch.randn((count, 12), generator=torch.Generator().manual_seed(seed))
    return F.normalize(rows + shift, dim=-1)


def test_cmmd_is_the_direct_formula():
    x, y = features(5, 0), features(7, 1)

    def mean_kernel(a, b):
        total = sum(
            math.exp(-sum((p - q) ** 2 for p, q in zip(u, v, strict=True)) / 200)
            for u in a.tolist()
            for v in b.tolist()
        )
        return total / (len(a) * len(b))

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd(x, y).item() == pytest.approx(expected, abs=1e-6)


def test_cmmd_is_zero_for_one_set_and_grows_with_the_distance():
    x = features(50, 0)
    assert cmmd(x, x).item() == pytest.approx(0, abs=1e-9)
    near, far = (cmmd(x, features(50, 1, shift)).item() for shift in (0.3, 2.0))
    assert 0 < near < far


def test_diversity_is_the_mean_over_pairs():
    rows = features(6, 2)
    pairs = [1 - rows[i] @ rows[j] for i in range(6) for j in range(i)]
    assert diversity(rows).item() == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)


def test_diversity_of_one_image_is_no_number_and_of_equal_ones_zero():
    assert diversity(features(1, 0)).isnan()
    assert diversity(features(1, 0).repeat(3, 1)).item() == pytest.approx(0, abs=1e-6)
