"""Each weight arithmetic recomputed from its formula, and compel's against the library."""

import pytest
import torch
from compel import Compel, ReturnedEmbeddingsType

from lab.condition.encode import encode
from lab.condition.weighting import WEIGHTINGS, EncodedText
from tests.condition.samples import close, embedding_for


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(1)
    z, e = torch.randn(2, 7, 5, generator=generator) + 0.5, torch.randn(7, 5, generator=generator)
    w = torch.ones(2, 7)
    w[0, 2:4], w[0, 5] = 1.3, 0.6
    ids = torch.zeros(2, 7, dtype=torch.long)
    return EncodedText(z, e, w, ids, fragments=(), special_ids=(0, 1, 2), encode=lambda ids, mask: z)


def test_a1111_keeps_each_chunks_mean(text):
    made = WEIGHTINGS["a1111"].apply(text)
    scaled = text.z[0] * text.w[0][:, None]
    assert close(made[0], scaled * (text.z[0].mean() / scaled.mean()))
    assert torch.equal(made[1], text.z[1])
    assert close(made.mean(dim=(1, 2)), text.z.mean(dim=(1, 2)))


def test_no_norm_scales(text):
    assert torch.equal(WEIGHTINGS["a1111-no-norm"].apply(text), text.z * text.w[..., None])


def test_comfy_goes_from_the_empty_text(text):
    made = WEIGHTINGS["comfy"].apply(text)
    for chunk, row in ((0, 2), (0, 5), (1, 3)):
        w = text.w[chunk, row]
        assert close(made[chunk, row], text.e[row] + w * (text.z[chunk, row] - text.e[row]))
    assert torch.equal(made[1], text.z[1])


def test_ignore_ignores(text):
    assert WEIGHTINGS["ignore"].apply(text) is text.z


@pytest.mark.parametrize(("family", "tolerance"), [("emoji", 5e-3), ("sdxl", 1e-4)])
def test_a1111_keeps_the_mean_over_all_texts_of_a_schedule(request, family, tolerance):
    """A1111's `forward` takes the texts of a schedule as one batch, and `EmphasisOriginal` that batch's means.

    The final LayerNorm of the other random models leaves means of 0. Those of emoji's states are small beside the
    states (0.001 and 0.7), so that what sums of float32 numbers lose shows more.
    """
    bundle = request.getfixturevalue(family)
    context = bundle.context_length
    widths = [tower.width for tower in bundle.towers]
    plain = ["red apple", "cat", "dog BREAK white"]
    rows = [encode(bundle, text).embeds.view(-1, context, sum(widths)) for text in (*plain, "")]
    z = torch.stack([torch.cat([text, rows[3]])[:2] for text in rows[:3]])
    w = torch.ones(3, 2, context, 1)
    w[0, 0, 1], w[2, 1, 1] = 1.4, 0.5
    part = encode(bundle, "[(red:1.4) apple|cat|dog BREAK (white:0.5)]", steps=6).parts[0]
    made = torch.stack([entry.embeds for _, entry in part.entries[:3]]).view(3, 2, context, -1)
    for ours, states in zip(made.split(widths, -1), z.split(widths, -1), strict=True):
        scaled = states * w
        factors = states.mean(dim=(0, 2, 3)) / scaled.mean(dim=(0, 2, 3))
        assert close(ours, scaled * factors.view(1, 2, 1, 1), tolerance)


def test_equal_neighbours_of_a_schedule_count_as_often_as_they_come(emoji):
    """Over four steps A1111's list is a, a, a, b: three entries of one text."""
    part = encode(emoji, "[[(red:1.5)|(red:1.5)]:cat:3]", steps=4).parts[0]
    z, other = encode(emoji, "red").embeds, encode(emoji, "cat").embeds
    w = torch.ones(len(z), 1)
    w[1] = 1.5
    factor = (3 * z.mean() + other.mean()) / (3 * (z * w).mean() + other.mean())
    for (_, entry), expected in zip(part.entries, (z * w, other), strict=True):
        assert close(entry.embeds, expected * factor, 1e-3)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_prompts_are_weighted_row_by_row_in_each_encoder(request, family):
    bundle = request.getfixturevalue(family)
    prompt, plain = "a (red:1.4) apple on [white] style", "a red apple on white style"
    z, e = encode(bundle, plain).embeds, encode(bundle, "").embeds
    w = torch.ones(77, 1)
    w[2], w[5] = 1.4, 1 / 1.1
    assert close(encode(bundle, prompt, weighting="a1111-no-norm").embeds, z * w)
    assert close(encode(bundle, prompt, weighting="comfy").embeds, torch.where(w == 1, z, e + w * (z - e)))
    assert close(encode(bundle, prompt, weighting="ignore").embeds, z)


def test_each_dialect_has_its_own_arithmetic(sd1):
    for dialect, prompt in (("comfy", "a (red:1.4) cat"), ("compel", "a (red)1.4 cat")):
        made = encode(sd1, prompt, dialect=dialect)
        assert torch.equal(made.embeds, encode(sd1, prompt, dialect=dialect, weighting=dialect).embeds)
    assert torch.equal(
        encode(sd1, "a (cat:2)", dialect="plain").embeds,
        encode(sd1, "a (cat:2)", dialect="plain", weighting="comfy").embeds,
    )


COMPEL = [
    "a photo++ of a (red cat)0.6, apple",
    "(a, b)1.3 (dog)0.4 cat--",
    '("a red apple", "blue dog").blend(0.7, 0.3)',
    '("a red apple", "blue dog, " ).blend(0.7, -0.3, no_normalize)',
    '("a red apple++", "blue dog").and()',
    "a photo of the (red)0.5 apple. on white background, " * 14 + "(dog)0.7",
    "wow! (!a)0.5",
    "",
]


def library(bundle, prompt):
    """What the compel library makes of a prompt: (n, d), and pooled (p,) for SDXL."""
    kinds = ReturnedEmbeddingsType
    sdxl = bundle.family == "sdxl"
    kind = kinds.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED if sdxl else kinds.LAST_HIDDEN_STATES_NORMALIZED
    embeds, pooled = [], None
    for tower in bundle.towers:
        last = sdxl and tower is bundle.towers[-1]
        compel = Compel(
            tower.tokenizer,
            tower.encoder,
            truncate_long_prompts=False,
            returned_embeddings_type=kind,
            requires_pooled=last,
        )
        made = compel(prompt)
        if last:
            made, pooled = made[0], made[1][0]
        embeds.append(made[0])
    return torch.cat(embeds, dim=-1), pooled


@pytest.mark.parametrize("prompt", COMPEL)
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_compel_equals_the_library(request, family, prompt):
    bundle = request.getfixturevalue(family)
    made = encode(bundle, prompt, dialect="compel")
    embeds, pooled = library(bundle, prompt)
    assert close(made.embeds, embeds)
    assert pooled is None or close(made.pooled, pooled)


def test_compel_weighs_its_conjunctions(sd1):
    prompt = '("a red apple++", "blue dog").and(1, 0.5)'
    assert close(encode(sd1, prompt, dialect="compel").embeds, library(sd1, prompt)[0])


def test_compels_arithmetic_serves_other_dialects(sd1):
    made = encode(sd1, "a (red apple:1.3) on (white:0.5) style", weighting="compel")
    assert close(made.embeds, library(sd1, "a (red apple)1.3 on (white)0.5 style")[0])


@pytest.mark.parametrize("dialect", ["a1111", "compel"])
def test_compel_weighs_learned_embeddings(sd1, dialect):
    """An embedding of vectors that are words' own is weighed as those words."""
    table = sd1.towers[0].encoder.get_input_embeddings().weight
    ids = sd1.towers[0].tokenizer("red apple", add_special_tokens=False).input_ids
    toy = embedding_for(sd1, vectors=len(ids))
    toy.vectors["clip"][:] = table[ids].detach()
    prompt = "a (<toy>:0.5) (cat:1.2)" if dialect == "a1111" else "a (<toy>)0.5 (cat)1.2"
    made = encode(sd1, prompt, embeddings=[toy], dialect=dialect, weighting="compel")
    assert close(made.embeds, library(sd1, "a (red apple)0.5 (cat)1.2")[0])
