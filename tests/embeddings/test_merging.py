import pytest
import torch

import lab
from lab.embeddings.embedding import Embedding, Provenance, vectors_sha256
from lab.embeddings.merge import merge
from tests.embeddings.files import vectors


def sdxl(name: str, count: int, seed: int, **more) -> Embedding:
    tensors = {"clip_l": vectors(count, 768, seed), "clip_g": vectors(count, 1280, seed)}
    return Embedding(name, tensors, **more)


def test_average_is_the_weighted_mean_of_each_encoder():
    a, b = sdxl("a", 3, 1), sdxl("b", 3, 2)
    merged = merge([a, b], [2.0, 6.0])
    for key in a.vectors:
        expected = 0.25 * a.vectors[key] + 0.75 * b.vectors[key]
        torch.testing.assert_close(merged.vectors[key], expected)


def test_weights_may_be_left_out_or_negative():
    a, b = sdxl("a", 3, 1), sdxl("b", 3, 2)
    plain = merge([a, b]).vectors["clip_l"]
    torch.testing.assert_close(plain, (a.vectors["clip_l"] + b.vectors["clip_l"]) / 2)
    away = merge([a, b], [2.0, -1.0]).vectors["clip_l"]
    torch.testing.assert_close(away, 2 * a.vectors["clip_l"] - b.vectors["clip_l"])


def test_an_embedding_with_itself_is_itself():
    a = sdxl("a", 3, 1)
    assert torch.equal(merge([a, a], [0.7, 0.3]).vectors["clip_g"], a.vectors["clip_g"])


def test_concat_keeps_the_order_and_takes_any_counts():
    a, b = sdxl("a", 3, 1), sdxl("b", 2, 2)
    merged = merge([b, a], [1.0, 0.5], "concat")
    assert merged.count == 5
    assert torch.equal(merged.vectors["clip_g"][:2], b.vectors["clip_g"])
    assert torch.equal(merged.vectors["clip_g"][2:], a.vectors["clip_g"] * 0.5)


def test_provenance():
    model = Provenance(base_model="some-model", step=5)
    a, b = (sdxl(name, 1, 1, kind="negative", provenance=model) for name in "ab")
    merged = merge([a, b], [0.7, 0.3], name="both")
    assert (merged.name, merged.kind) == ("both", "negative")
    assert merged.provenance.base_model == "some-model"
    assert merged.provenance.step is None
    assert merged.provenance.sha256 == vectors_sha256(merged.vectors)
    assert merged.provenance.metadata == {"modelspec.merged_from": "average: a * 0.7, b * 0.3"}
    assert merge([a, sdxl("c", 1, 1)]).kind == "unknown"


@pytest.mark.parametrize(
    "embeddings, weights, method, words",
    [
        ([sdxl("a", 1, 1)], None, "average", "at least two"),
        ([sdxl("a", 1, 1)] * 2, [1.0], "average", "2 embeddings and 1 weights"),
        ([sdxl("a", 1, 1)] * 2, [1.0, -1.0], "average", "sum to 0"),
        ([sdxl("a", 1, 1), sdxl("b", 2, 1)], None, "average", "use --method concat"),
        ([sdxl("a", 1, 1)] * 2, None, "mean", "known: average, concat"),
        ([sdxl("a", 1, 1)] * 2, [1.0, float("nan")], "concat", "NaN"),
        (
            [sdxl("a", 1, 1), Embedding("b", {"clip_h": vectors(1, 1024)})],
            None,
            "average",
            "one model family",
        ),
        (
            [Embedding("a", {"clip": vectors(1, 8)}), Embedding("b", {"clip": vectors(1, 16)})],
            None,
            "concat",
            "16",
        ),
    ],
)
def test_refusals(embeddings, weights, method, words):
    with pytest.raises(lab.InputError, match=words):
        merge(embeddings, weights, method)
