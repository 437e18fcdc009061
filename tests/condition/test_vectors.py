"""Learned vectors in prompts: where they go, that they leave no trace, and that gradients reach them."""

import hashlib

import pytest
import torch

from lab.condition.chunks import fill_chunks
from lab.condition.encode import encode
from lab.condition.tokens import Tokenizer
from lab.condition.towers import encode_chunks
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.models.patches import Placement, learned_rows
from lab.prompt.dialects import DIALECTS
from lab.prompt.parse import parse, resolve
from lab.prompt.references import find_references
from tests.condition.samples import close, embedding_for


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def bundle(request):
    return request.getfixturevalue(request.param)


def test_vectors_equal_to_a_words_own_give_that_words_embeddings(bundle):
    ids = bundle.towers[0].tokenizer("red apple", add_special_tokens=False).input_ids
    tables = {tower.key: tower.encoder.get_input_embeddings().weight[ids].detach() for tower in bundle.towers}
    made = encode(
        bundle,
        "a photo of <toy>, (embedding:toy:1.2)",
        embeddings=[Embedding("toy", tables)],
        weighting="comfy",
    )
    plain = encode(bundle, "a photo of red apple, (red apple:1.2)", weighting="comfy")
    assert close(made.embeds, plain.embeds)
    assert plain.pooled is None or close(made.pooled, plain.pooled)


def test_what_was_applied_is_listed(sd1):
    made = encode(
        sd1,
        "a <toy>, (embedding:toy:1.2) and <other>",
        embeddings=[embedding_for(sd1), embedding_for(sd1, "other", 1)],
    )
    assert [(use.name, use.vectors, use.positions, use.weight) for use in made.applied] == [
        ("toy", 3, (2, 3, 4), 1.0),
        ("toy", 3, (6, 7, 8), 1.2),
        ("other", 1, (10 + len("and") - 1,), 1.0),
    ]
    spans = [span for span in made.spans if span.embedding]
    assert [made.prompt[slice(*span.source)] for span in spans] == ["<toy>", "embedding:toy", "<other>"]


def test_a_hundred_loads_leave_no_trace(sd1):
    encoder, tokenizer = sd1.towers[0].encoder, sd1.towers[0].tokenizer

    def state():
        digest = hashlib.sha256()
        for name, tensor in sorted(encoder.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        hooks = [len(module._forward_hooks) for module in encoder.modules()]
        return digest.hexdigest(), hooks, tokenizer.backend_tokenizer.to_str(), len(tokenizer)

    before, plain = state(), encode(sd1, "a red apple").embeds
    for seed in range(100):
        encode(sd1, "a <toy>", embeddings=[embedding_for(sd1, seed=seed)])
    assert state() == before and torch.equal(encode(sd1, "a red apple").embeds, plain)


def test_the_hook_goes_when_encoding_fails(sd1):
    encoder = sd1.towers[0].encoder
    narrow = Placement(torch.tensor([0]), torch.tensor([1]), torch.zeros(1, 5))
    with pytest.raises(RuntimeError), learned_rows(encoder, narrow):
        encoder(torch.zeros(1, 77, dtype=torch.long))
    assert not encoder.get_input_embeddings()._forward_hooks


def test_gradients_reach_every_vector(bundle):
    toy = embedding_for(bundle, vectors=4)
    vectors = {"toy": {key: rows.clone().requires_grad_() for key, rows in toy.vectors.items()}}
    reading = resolve(parse("a photo of <toy>", "plain", find_references("a photo of <toy>", ["toy"])), 1)
    words = Tokenizer(bundle, {"toy": 4}.__getitem__).words(reading[0].variants[0].segments)
    encoded = encode_chunks(bundle, fill_chunks(words, 75, DIALECTS["plain"].split), vectors)
    encoded.states.square().sum().backward()
    for rows in vectors["toy"].values():
        assert (rows.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for tower in bundle.towers for parameter in tower.encoder.parameters())
    assert close(encoded.states[0].detach(), encode(bundle, "a photo of <toy>", embeddings=[toy]).embeds)


def test_other_widths_stop_with_both_and_their_families(sd1, sdxl):
    old = Embedding("old", {"clip_l": torch.zeros(2, 768)})
    with pytest.raises(InputError, match=r"old is 768 wide \(SD 1.x\), the model .* takes 32 wide"):
        encode(sd1, "a <old>", embeddings=[old])
    with pytest.raises(InputError, match=r"takes 32 \+ 64 wide"):
        encode(sdxl, "a <old>", embeddings=[old])
    assert encode(sd1, "without it", embeddings=[old]).applied == ()


def test_two_of_one_name_stop(sd1):
    with pytest.raises(InputError, match="two embeddings are called 'toy'"):
        encode(sd1, "a <toy>", embeddings=[embedding_for(sd1), embedding_for(sd1, seed=1)])


def test_embeddings_are_read_when_a_prompt_names_them(sd1):
    class Shelf(dict):
        def __getitem__(self, name):
            assert name == "toy", "no prompt names it"
            return embedding_for(sd1)

    assert encode(sd1, "a <toy>", embeddings=Shelf.fromkeys(["toy", "other"])).applied[0].name == "toy"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat-200, dog", [("cat-200", "cat-200")]),
        ("a cat-2000", [("cat-2000", "cat-2000")]),
        ("CAT-200! (cat-2000:1.1)", [("cat-200", "CAT-200"), ("cat-2000", "cat-2000")]),
        ("cat-20001 xcat-200 cat-200-b a-cat-200", []),
        ("red white apple", [("red white", "red white")]),
        ("red", []),
    ],
)
def test_bare_names_only_when_asked(sd1, text, expected):
    names = ["cat-200", "cat-2000", "red white"]
    shelf = [embedding_for(sd1, name, vectors=2) for name in names]
    made = encode(sd1, text, embeddings=shelf, bare_names=True)
    found = [(span.embedding, text[slice(*span.source)]) for span in made.spans if span.embedding]
    assert found == expected
    assert encode(sd1, text, embeddings=shelf).applied == ()
