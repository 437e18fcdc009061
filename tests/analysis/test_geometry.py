"""Geometry against its formulas, and plots that are written whole."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import lab
from lab.analysis.figures import save_figure
from lab.analysis.geometry import draw_geometries, learned_geometry, principal_components, prompt_geometry
from lab.embeddings.embedding import Embedding
from lab.models.vocabulary import Vocabulary

GENERATOR = torch.Generator().manual_seed(0)
VOCABULARY = Vocabulary(torch.randn((40, 8), generator=GENERATOR), [f"w{n}</w>" for n in range(40)])


def embedding(name, count=2, width=8, key="clip"):
    return Embedding(name, {key: torch.randn((count, width), generator=GENERATOR)})


def test_matrices_norms_and_nearest_tokens():
    copy = Embedding("copy", {"clip": 3 * VOCABULARY.table[7:8]})
    geometry = learned_geometry([embedding("a"), copy], "clip", VOCABULARY, ["w7"])
    assert geometry.labels == ("a 0", "a 1", "copy", "w7")
    assert geometry.groups == ("a", "a", "copy", "words")
    vectors = geometry.vectors.numpy()
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(geometry.norms, lengths, rtol=1e-6)
    np.testing.assert_allclose(geometry.dot, vectors @ vectors.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        geometry.cosine, vectors @ vectors.T / np.outer(lengths, lengths), rtol=1e-4, atol=1e-5
    )
    assert geometry.nearest[2][0].token == "w7</w>" and geometry.nearest[2][0].cosine == pytest.approx(1)


def test_principal_components_are_those_of_the_covariance():
    vectors = torch.randn((30, 6), generator=GENERATOR) * torch.tensor([5.0, 3, 1, 0.5, 0.2, 0.1])
    points, shares = principal_components(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.double().numpy().T))
    centred = (vectors - vectors.mean(dim=0)).double().numpy()
    expected = centred @ directions[:, ::-1][:, :2]
    np.testing.assert_allclose(points.abs(), np.abs(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum(), rtol=1e-5)
    assert torch.equal(principal_components(vectors)[0], points)


def test_one_and_two_vectors_have_a_map():
    one, shares = principal_components(torch.ones(1, 5))
    assert one.tolist() == [[0, 0]] and shares == (0, 0)
    two, shares = principal_components(torch.tensor([[0.0, 0], [3, 4]]))
    assert two[:, 0].abs().tolist() == pytest.approx([2.5, 2.5]) and shares[0] == pytest.approx(1)


def test_prompts_lie_where_their_pooled_vectors_lie(sd1, sdxl):
    prompts = ["a red apple", "a red apple", "the blue dog"]
    for bundle in (sd1, sdxl):
        geometry = prompt_geometry(bundle, prompts)
        assert geometry.cosine[0, 1] == pytest.approx(1, abs=1e-5)
        assert geometry.cosine[0, 2] < 0.9999
    torch.testing.assert_close(geometry.vectors[0], lab.encode(sdxl, "a red apple").pooled)


def test_plots_are_written_and_written_again_alike(tmp_path):
    space = learned_geometry([embedding("a"), embedding("<b> $x$", 1)], "clip", VOCABULARY)
    for name in ("new/x.svg", "again.svg", "x.png"):
        save_figure(draw_geometries([space]), tmp_path / name)
    assert (tmp_path / "new/x.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    words = {element.text for element in ElementTree.parse(tmp_path / "again.svg").iter() if element.text}
    assert {"<b> $x$", "vectors of clip", "cosine", "dot product"} <= words
    with Image.open(tmp_path / "x.png") as image:
        assert image.width > 1000


def test_what_cannot_be_shown_is_one_line(tmp_path):
    with pytest.raises(lab.InputError, match="'w77' is not one token of the vocabulary; nearest: w7"):
        learned_geometry([embedding("a")], "clip", VOCABULARY, ["w77"])
    with pytest.raises(lab.InputError, match="give --model"):
        learned_geometry([embedding("a")], "clip", None, ["w7"])
    with pytest.raises(lab.InputError, match="no embedding has vectors for clip_l"):
        learned_geometry([embedding("a")], "clip_l")
    with pytest.raises(lab.InputError, match="several widths"):
        learned_geometry([embedding("a"), embedding("b", width=9)], "clip")
    with pytest.raises(lab.InputError, match=r"\.png or \.svg"):
        save_figure(draw_geometries([learned_geometry([embedding("a")], "clip")]), tmp_path / "x.bmp")
