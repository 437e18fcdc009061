"""Metrics of a set of images, from their CLIP features."""

import torch
from torch import Tensor

SIGMA, SCALE = 10.0, 1000.0
"""Bandwidth of CMMD's kernel and the factor that makes its values easy to read."""


def diversity(features: Tensor) -> Tensor:
    """Mean cosine distance, a scalar in 0..2, over all pairs of features (n, p) of unit length; NaN for n < 2."""
    count = len(features)
    if count < 2:
        return torch.tensor(torch.nan)
    total = features.sum(dim=0).square().sum() - features.square().sum()
    return 1 - total / (count * (count - 1))


def cmmd(features: Tensor, references: Tensor) -> Tensor:
    """CLIP maximum mean discrepancy, a scalar from 0 (Jayasumana et al. 2401.09603, eq. 2), times 1000.

    Gaussian kernel exp(-|x - y|^2 / (2 sigma^2)) with sigma 10 on CLIP features of unit length; as in the authors'
    code, each mean is over all pairs, an image with itself included.

    Args:
        features: (n, p).
        references: (m, p).
    """
    within = _mean_kernel(features, features) + _mean_kernel(references, references)
    return SCALE * (within - 2 * _mean_kernel(features, references))


def _mean_kernel(one: Tensor, other: Tensor) -> Tensor:
    one, other = one.double(), other.double()  # the means agree to five digits, and their differences count
    squares = one.square().sum(dim=1)[:, None] + other.square().sum(dim=1) - 2 * one @ other.T
    return torch.exp(-squares / (2 * SIGMA**2)).mean()
