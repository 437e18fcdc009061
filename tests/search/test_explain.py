"""Learned vectors in words: words are found again, and nothing is promised that they do not do."""

import pytest
import torch

import lab
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.search.explain import explain, measured_in, nearest_words


def vectors_of(bundle, words):
    """The token embeddings of words, as an embedding."""
    ids = bundle.towers[0].tokenizer(words, add_special_tokens=False)["input_ids"]
    return Embedding(
        "said",
        {
            tower.key: tower.encoder.get_input_embeddings().weight[ids].detach().clone()
            for tower in bundle.towers
        },
    )


@pytest.mark.parametrize(("family", "text"), [("sd1", "red apple"), ("sdxl", "cat")])
def test_vectors_that_are_words_are_these_words(family, text, request):
    bundle, words = request.getfixturevalue(family), tuple(text.split())
    *_, last = explain(bundle, vectors_of(bundle, text), most=len(words))
    assert last.words == words and last.share == pytest.approx(1, abs=1e-4)


def test_the_search_finds_no_less_than_the_nearest_word(sd1):
    rows = vectors_of(sd1, "red apple").vectors["clip"]
    between = Embedding("between", {"clip": 3 * rows.mean(dim=0, keepdim=True)})
    *_, found = explain(sd1, between, most=1)
    assert found.share > nearest_words(sd1, between).share - 1e-6


def test_shares_are_measured_on_the_embedding_itself(sd1):
    """A share is what `lab encode` says of it, in a context that was kept apart."""
    toy = Embedding("toy", {"clip": torch.randn(1, sd1.towers[0].width)})
    ((words, share),) = explain(sd1, toy, most=1)
    shares = []
    for context in (
        "{}, a house by the sea",
        "a cat next to {}",
        "a painting of mountains, {}",
        "{} in winter",
    ):
        said, meant, nothing = (
            lab.encode(sd1, context.replace("{}", text), embeddings=[toy]).embeds[1:]
            for text in (words[0], "<toy>", "")
        )
        spans = lab.encode(sd1, context.replace("{}", "<toy>"), embeddings=[toy]).spans
        row = next(span.start for span in spans if span.embedding)
        pad = nothing[-1:]
        nothing = torch.cat([nothing[: row - 1], pad, nothing[row - 1 : -1]])
        shares.append(1 - (said - meant).square().sum() / (nothing - meant).square().sum())
    assert share == pytest.approx(float(torch.stack(shares).mean()), abs=1e-4)


def test_vectors_for_another_model_are_refused(sd1):
    with pytest.raises(InputError, match="takes 32 wide"):
        next(explain(sd1, Embedding("other", {"clip_l": torch.randn(1, 768)})))


def test_as_many_vectors_as_a_chunk_holds_are_measured_where_they_have_room(sd1):
    for count, apart in ((75, False), (60, True)):
        full = Embedding("full", {"clip": torch.randn(count, 32)})
        assert (measured_in(sd1, full) == ["{}"]) == (not apart)
        assert len(list(explain(sd1, full, most=1))) == 1 and nearest_words(sd1, full).share <= 1
    with pytest.raises(InputError, match="76 vectors, and a chunk has room for 75"):
        next(explain(sd1, Embedding("over", {"clip": torch.randn(76, 32)})))
