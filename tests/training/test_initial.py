import pytest
import torch

from lab.embeddings.embedding import PARTNER, Embedding
from lab.errors import InputError
from lab.models.vocabulary import norm_range, whole_words
from lab.training.learned import (
    Beginning,
    Initial,
    Learned,
    initial_from_text,
    initial_vectors,
    nearest_words,
)


def generator(seed=0):
    return torch.Generator("cpu").manual_seed(seed)


def learned_at(bundle, vectors):
    return Learned(bundle, [Beginning("x", "concept", Initial(vectors, (), ""), 0.1)])


def rows(bundle, *ids):
    table = bundle.towers[0].encoder.get_input_embeddings().weight.detach()
    return torch.stack(
        [
            table[list(each) if isinstance(each, tuple) else each].reshape(-1, table.shape[1]).mean(0)
            for each in ids
        ]
    )


@pytest.mark.parametrize(
    ("count", "mapping"),
    [
        (1, ["a + red + apple"]),
        (2, ["a", "red + apple"]),
        (3, ["a", "red", "apple"]),
        (7, ["a", "a", "a", "red", "red", "apple", "apple"]),
    ],
)
def test_text_of_any_length_is_spread_over_any_number_of_vectors(sd1, count, mapping):
    initial = initial_from_text(sd1, "a red apple", count)
    assert list(initial.origins) == mapping and initial.text == "a red apple"
    ids = dict(
        zip(
            ("a", "red", "apple"),
            sd1.towers[0].tokenizer("a red apple", add_special_tokens=False)["input_ids"],
            strict=True,
        )
    )
    expected = rows(sd1, *(tuple(ids[word] for word in origin.split(" + ")) for origin in mapping))
    torch.testing.assert_close(initial.vectors["clip"], expected)


def test_sdxl_begins_at_both_encoders_tokens(sdxl):
    initial = initial_from_text(sdxl, "red", 1)
    for tower in sdxl.towers:
        (number,) = tower.tokenizer("red", add_special_tokens=False)["input_ids"]
        assert torch.equal(initial.vectors[tower.key][0], tower.encoder.get_input_embeddings().weight[number])


def test_random_has_the_vocabularys_median_norm(sd1):
    made = [initial_vectors(sd1, "random", 3, generator(seed), "") for seed in (1, 1, 2)]
    one, same, other = (each.vectors["clip"] for each in made)
    assert torch.equal(one, same) and not torch.equal(one, other)
    median = norm_range(sd1.towers[0].encoder)[1]
    torch.testing.assert_close(one.norm(dim=1), torch.full((3,), median))


def test_an_embedding_can_be_the_beginning(sd1, sdxl, tmp_path):
    (embedding,) = learned_at(sd1, initial_from_text(sd1, "red apple", 2).vectors).embeddings()
    file = tmp_path / "old.safetensors"
    embedding.save(file)
    initial = initial_vectors(sd1, f"file:{file}", 2, generator(), "")
    assert torch.equal(initial.vectors["clip"], embedding.vectors["clip"])
    assert initial.origins == ("old[0]", "old[1]")
    with pytest.raises(InputError, match="--vectors 2"):
        initial_vectors(sd1, f"file:{file}", 3, generator(), "")
    with pytest.raises(InputError, match="widths"):
        initial_vectors(sdxl, f"file:{file}", 2, generator(), "")


def test_auto_takes_the_words_it_is_given_or_the_objectives_own(sd1):
    found = initial_vectors(sd1, "auto", 2, generator(), lambda count: ["cat", "dog"][:count])
    assert found.origins == ("cat", "dog")
    assert initial_vectors(sd1, "auto", 1, generator(), "apple").origins == ("apple",)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_cross_begins_at_what_the_encoders_make_of_the_words(family, request):
    bundle = request.getfixturevalue(family)
    crossed = initial_vectors(bundle, "cross", 2, generator(), lambda count: ["red", "apple"])
    assert crossed.origins == ("red", "apple")
    for tower in bundle.towers:
        ids = tower.tokenizer("red apple", return_tensors="pt").input_ids
        expected = tower.encoder(ids).last_hidden_state[0, 1:3]
        torch.testing.assert_close(crossed.vectors[tower.key], expected.detach())
        assert not torch.allclose(initial_from_text(bundle, "red apple", 2).vectors[tower.key], expected)


def test_text_without_tokens_is_refused(sd1):
    with pytest.raises(InputError, match="no token"):
        initial_from_text(sd1, " ", 1)


@pytest.mark.parametrize("how", ["free", "clamp", "rescale", "mean"])
def test_norms_are_adjusted(sd1, how):
    low, median, high = norm_range(sd1.towers[0].encoder)
    mean = float(sd1.towers[0].encoder.get_input_embeddings().weight.norm(dim=1).mean())
    vectors = torch.nn.functional.normalize(torch.randn(2, 32), dim=1) * torch.tensor([[0.01], [50.0]])
    learned = learned_at(sd1, {"clip": vectors})
    assert "x/clip" in learned.outside_vocabulary()
    learned.adjust_norms(how)
    wanted = {
        "free": [0.01, 50.0],
        "clamp": [low, high],
        "rescale": [median, median],
        "mean": [mean, mean],
    }[how]
    assert learned.norms()["x/clip"] == pytest.approx(wanted, rel=1e-4)
    torch.testing.assert_close(
        torch.nn.functional.normalize(learned.rows["x"]["clip"], dim=1),
        torch.nn.functional.normalize(vectors, dim=1),
    )


def test_either_half_of_a_pair_can_be_the_beginning(sd1, tmp_path):
    halves = {"toy": "concept", "toy-neg": "negative"}
    for name, kind in halves.items():
        partner = "toy" if name != "toy" else "toy-neg"
        half = Embedding(name, {"clip": torch.full((2, 32), float(len(name)))}, kind=kind)
        half.save(tmp_path / f"{name}.safetensors", metadata={PARTNER: partner})
    for name in halves:
        initial = initial_vectors(sd1, f"file:{tmp_path / name}.safetensors", 2, generator(), "")
        assert (initial.vectors["clip"] == len(name)).all() and initial.origins[0] == f"{name}[0]"


class Judge:
    """Images are all alike; texts are the more like them the more letters `e` they have."""

    def images(self, pixels):
        return torch.tensor([[1.0, 0.0]]).expand(len(pixels), 2)

    def texts(self, texts):
        angles = torch.tensor([text.count("e") / 10 for text in texts])
        return torch.stack([angles, 1 - angles], dim=1)


def test_words_are_whole_and_long_enough(sd1):
    words = whole_words(sd1.towers[0].tokenizer)
    assert {"apple", "dog", "red"} <= set(words)
    assert all(len(word) >= 3 and word.isalpha() for word in words)


def test_the_nearest_come_first(sd1, images):
    words = whole_words(sd1.towers[0].tokenizer)
    found = nearest_words(sd1, Judge(), sorted(images.iterdir()))(4)
    most = sorted(words, key=lambda word: -word.count("e"))
    assert [word.count("e") for word in found] == [word.count("e") for word in most[:4]]
    assert len(set(found)) == 4 and set(found) <= set(words)
