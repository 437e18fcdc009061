import numpy as np
import pytest
import torch
from scipy.stats import percentileofscore

from lab.embeddings.embedding import Embedding, family
from lab.models.vocabulary import (
    Vocabulary,
    cosines,
    nearest_tokens,
    norm_percentiles,
    norm_quartiles,
)
from tests.embeddings.files import vectors

TABLE = vectors(200, 16, seed=3)


def test_norm_quartiles_are_numpy_s():
    expected = np.percentile(np.linalg.norm(TABLE.numpy(), axis=1), [25, 50, 75])
    np.testing.assert_allclose(norm_quartiles(TABLE), expected, rtol=1e-5)


def test_norm_percentiles_are_scipy_s():
    tensor = vectors(5, 16, seed=4)
    norms = np.linalg.norm(TABLE.numpy(), axis=1)
    expected = [percentileofscore(norms, norm, kind="strict") for norm in np.linalg.norm(tensor, axis=1)]
    np.testing.assert_allclose(norm_percentiles(tensor, TABLE), expected, rtol=1e-5)


def test_the_nearest_token_of_a_token_is_itself_at_any_length():
    tokens = [f"token{number}" for number in range(len(TABLE))]
    for number, near in enumerate(nearest_tokens(TABLE * 7, Vocabulary(TABLE, tokens), 10)):
        assert near[0].token == f"token{number}"
        assert near[0].cosine == pytest.approx(1)
        assert [one.cosine for one in near] == sorted((one.cosine for one in near), reverse=True)
        assert len(near) == 10


def test_a_small_vocabulary_has_fewer_neighbours():
    near = nearest_tokens(vectors(1, 16), Vocabulary(TABLE[:3], ["a", "b", "c"]), 10)
    assert sorted(one.token for one in near[0]) == ["a", "b", "c"]


def test_cosines():
    tensor = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    half = 0.5**0.5
    expected = torch.tensor([[1, 0, half], [0, 1, half], [half, half, 1]])
    torch.testing.assert_close(cosines(tensor), expected)


@pytest.mark.parametrize(
    "widths, name",
    [
        ({"clip_l": 768}, "SD 1.x"),
        ({"clip_h": 1024}, "SD 2.x"),
        ({"clip_l": 768, "clip_g": 1280}, "SDXL"),
        ({"clip": 64}, "unknown"),
    ],
)
def test_family(widths, name):
    assert family(Embedding("x", {key: vectors(1, width) for key, width in widths.items()})) == name
