import math

import pytest
import torch
import torch.nn.functional as F

from lab.score.sets import cmmd, diversity


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
