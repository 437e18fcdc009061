"""FAISS indexes against brute force, and their files."""

import json

import pytest
import torch

import lab
from lab.search.index import Index, VectorSpace, unknown_rows
from lab.search.sources import IndexRow

SPACE = VectorSpace("a" * 64, "emoji", "eos")


def rows(count, first=0):
    return [IndexRow("prompt", f"p{n}", f"x.txt:{n}", f"p{n}") for n in range(first, first + count)]


def vectors(count, seed=0):
    return torch.randn((count, 12), generator=torch.Generator().manual_seed(seed))


def found(index, queries, count):
    return [[hit.row.text for hit in hits] for hits in index.search(queries, count)]


@pytest.mark.parametrize("kind", ["flat-ip", "flat-l2"])
def test_flat_is_brute_force(kind):
    data, queries = vectors(200), vectors(5, seed=1)
    index = Index.build(kind, SPACE, rows(200), data)
    if kind == "flat-ip":
        scores = torch.cosine_similarity(queries[:, None], data[None], dim=-1)
        best = scores.topk(7, dim=1)
    else:
        scores = torch.cdist(queries, data)
        best = scores.topk(7, dim=1, largest=False)
    assert found(index, queries, 7) == [[f"p{n}" for n in line] for line in best.indices.tolist()]
    values = [[hit.score for hit in hits] for hits in index.search(queries, 7)]
    torch.testing.assert_close(torch.tensor(values), best.values, rtol=1e-4, atol=1e-4)


def test_ivf_finds_nearly_what_flat_finds():
    centres = vectors(40, seed=2)
    data = (centres[:, None] + 0.3 * vectors(2000).view(40, 50, 12)).flatten(0, 1)
    queries = centres[:10]
    flat, ivf = (Index.build(kind, SPACE, rows(2000), data) for kind in ("flat-ip", "ivf"))
    pairs = zip(found(flat, queries, 10), found(ivf, queries, 10), strict=True)
    recall = sum(len(set(one) & set(other)) for one, other in pairs) / 100
    assert recall > 0.9


@pytest.mark.parametrize("kind", ["flat-ip", "flat-l2", "ivf"])
def test_added_in_parts_saved_and_loaded_is_the_same(kind, tmp_path):
    data, queries = vectors(90), vectors(4, seed=1)
    index = Index.build(kind, SPACE, rows(60), data[:60])
    index.save(tmp_path / "index")
    index = Index.load(tmp_path / "index")
    index.add(rows(30, 60), data[60:])
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    assert again.rows == rows(90) and again.kind == kind and again.space == SPACE
    assert again.search(queries, 5) == index.search(queries, 5)
    assert found(again, data[70:71], 1) == [["p70"]]
    assert sorted(path.suffix for path in (tmp_path / "index").iterdir()) == [".faiss", ".json"]


def test_more_neighbours_than_rows():
    index = Index.build("ivf", SPACE, rows(3), vectors(3))
    assert len(index.search(vectors(1), 10)[0]) == 3


def test_new_rows_are_those_not_known_each_once():
    assert unknown_rows([*rows(3), *rows(2)], {("prompt", "p1")}) == [rows(3)[0], rows(3)[2]]
    assert unknown_rows(rows(2), {("token", "p0")}) == rows(2)


def test_other_models_and_poolings_are_refused(tmp_path):
    index = Index.build("flat-ip", SPACE, rows(3), vectors(3))
    index.check_same_space(SPACE, tmp_path)
    with pytest.raises(
        lab.InputError, match=r"another model, emoji \(aaaaaaaaaa\), not of other \(bbbbbbbbbb\)"
    ):
        index.check_same_space(VectorSpace("b" * 64, "other", "eos"), tmp_path)
    with pytest.raises(lab.InputError, match="pooled by 'eos', not by 'mean'"):
        index.check_same_space(VectorSpace("a" * 64, "emoji", "mean"), tmp_path)


def edit_vectors(folder):
    (path,) = folder.glob("*.faiss")
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def edit_rows(folder, change):
    told = json.loads((folder / "rows.json").read_text())
    change(told)
    (folder / "rows.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "rows.json").unlink(), "no index there"),
        (lambda folder: (folder / "rows.json").write_text("{"), "damaged"),
        (
            lambda folder: edit_rows(folder, lambda told: told.update(vectors="a\0b")),
            r"rows\.json: embedded null byte; damaged",
        ),
        (lambda folder: edit_rows(folder, lambda told: told.pop("space")), "damaged"),
        (lambda folder: edit_rows(folder, lambda told: told["rows"].pop()), "3 vectors for 2 rows"),
        (edit_vectors, "not those it was saved with"),
        (lambda folder: next(folder.glob("*.faiss")).unlink(), "no index there"),
    ],
)
def test_damaged_indexes_are_one_line(tmp_path, damage, said):
    Index.build("flat-ip", SPACE, rows(3), vectors(3)).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(lab.InputError, match=said):
        Index.load(tmp_path)
