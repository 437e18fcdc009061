"""Prompt embeddings against diffusers', and what must hold for any prompt."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import Embedding, InputError, encode
from lab.condition.config import TextOptions
from lab.condition.prompt_encoder import PromptEncoder
from tests.condition.samples import close, embedding_for

FAMILIES = ("sd1", "sd2", "sdxl")
PROMPTS = ("a photo of the red apple", "", "Cat, dog!! on a WHITE background?! é 2048", "blurry " * 60)


@pytest.fixture(params=FAMILIES)
def bundle(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def diffusers_encode(sd1_folder, sd2_folder, sdxl_folder):
    """(family, prompt) -> (prompt embeddings (1, n, d), pooled (1, p) or None), from the pipeline."""
    folders = {"sd1": sd1_folder, "sd2": sd2_folder, "sdxl": sdxl_folder}
    pipelines = {}

    def encode_prompt(family, prompt, clip_skip=None):
        if family not in pipelines:
            kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
            pipelines[family] = kind.from_pretrained(folders[family])
        options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        made = pipelines[family].encode_prompt(prompt, clip_skip=clip_skip, **options)
        return (made[0], made[2]) if family == "sdxl" else (made[0], None)

    return encode_prompt


@pytest.mark.parametrize("dialect", ["a1111", "comfy", "plain", "compel"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_plain_prompts_equal_diffusers(bundle, diffusers_encode, prompt, dialect):
    if dialect == "compel":
        prompt = prompt.replace("!!", "").replace(" ?!", "")  # its parser sets punctuation apart
    if dialect in ("a1111", "comfy"):
        prompt = prompt.replace(
            "!", ""
        )  # which diffusers takes for padding in OpenCLIP's texts, the tools do not
    made = encode(bundle, prompt, dialect=dialect)
    embeds, pooled = diffusers_encode(bundle.family, prompt)
    assert close(made.embeds, embeds[0])
    if pooled is not None:
        assert close(made.pooled, pooled[0])


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_sign_that_diffusers_pads_with_is_a_sign_in_the_tools(family, request):
    """ComfyUI's tokenizers and OpenCLIP's own, which A1111 runs, have no padding among the signs of texts."""
    bundle = request.getfixturevalue(family)
    plain = bundle.towers[0] if family == "sdxl" else request.getfixturevalue("sd1").towers[0]
    text = "a cat!! red!, !"
    wanted = plain.tokenizer(text, add_special_tokens=False)["input_ids"]
    for dialect, same in (("a1111", True), ("comfy", True), ("plain", False)):
        encoder = PromptEncoder(bundle, [], TextOptions(dialect=dialect), 1)
        (timeline,) = encoder.read(text)
        ((chunk,),) = encoder.chunks(timeline.variants[0])
        assert ([token for word in chunk for token in word.ids[-1]] == wanted) == same


def test_a_list_gives_a_list_and_neighbours_change_nothing(bundle):
    prompts = ["a red apple", "cat, " * 80, "a red apple", "(dog:1.3)"]
    together = encode(bundle, prompts)
    for prompt, made in zip(prompts, together, strict=True):
        assert made.prompt == prompt and close(made.embeds, encode(bundle, prompt).embeds)
    assert together[0].embeds is together[2].embeds  # encoded once


def test_weight_one_everywhere_equals_plain(sd1):
    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.sampled_from(["red", "apple", "cat", ", ", "é", "dog"]), min_size=1, max_size=8))
    def check(words):
        plain = encode(sd1, " ".join(words), dialect="plain").embeds
        for dialect in ("a1111", "comfy"):
            weighted = " ".join(f"({word}:1)" if word != ", " else word for word in words)
            assert close(encode(sd1, weighted, dialect=dialect).embeds, plain)
        assert close(encode(sd1, " ".join(words), dialect="compel", weighting="comfy").embeds, plain)

    check()


def test_three_hundred_tokens_take_four_chunks_and_keep_every_word(bundle):
    words = [
        f"{word}{number % 7}" for number, word in enumerate(["red", "cat", "dog", "white", "style"] * 32)
    ]
    prompt = ", ".join(words)
    for dialect in ("a1111", "comfy", "plain", "compel"):
        made = encode(bundle, prompt, dialect=dialect, keep_words=True)
        assert len(made.embeds) % 77 == 0 and len(made.embeds) >= 4 * 77
        kept = [span for span in made.spans if span.text.strip(",")]
        assert [span.text.strip(",") for span in kept] == words
        assert all(prompt[slice(*span.source)] == span.text for span in made.spans)
        assert all(span.start // 77 == (span.end - 1) // 77 for span in made.spans)


def test_each_chunk_is_encoded_as_a_prompt_of_its_own(sd1):
    made = encode(sd1, "a red apple BREAK cat on white")
    assert close(made.embeds[:77], encode(sd1, "a red apple").embeds)
    assert close(made.embeds[77:], encode(sd1, "cat on white").embeds)


def test_pooled_comes_from_the_first_chunk(sdxl):
    made = encode(sdxl, "a red apple BREAK cat on white")
    assert close(made.pooled, encode(sdxl, "a red apple").pooled)


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_clip_skip_takes_the_layer_of_the_formula(bundle, skip):
    if bundle.family == "sdxl" and skip == 2:
        with pytest.raises(InputError, match="has 3 layers; use 0 to 1"):
            encode(bundle, "cat", dialect="plain", clip_skip=skip)
        return
    for dialect in ("a1111", "compel") if bundle.family == "sd1" else ("plain", "compel"):
        expected = []
        for tower in bundle.towers:
            ids = tower.tokenizer("a red apple", padding="max_length", return_tensors="pt").input_ids
            with torch.no_grad():
                states = tower.encoder(ids, output_hidden_states=True).hidden_states
            norm = getattr(tower.encoder, "text_model", tower.encoder).final_layer_norm
            expected.append(states[-(skip + 2)] if bundle.family == "sdxl" else norm(states[-(skip + 1)]))
        made = encode(bundle, "a red apple", dialect=dialect, clip_skip=skip)
        assert close(made.embeds, torch.cat(expected, dim=-1)[0].detach())


def test_clip_skip_equals_diffusers_on_sdxl(sdxl, diffusers_encode):
    embeds, _ = diffusers_encode("sdxl", "a red apple", clip_skip=1)
    assert close(encode(sdxl, "a red apple", dialect="plain", clip_skip=1).embeds, embeds[0])


def test_the_web_uis_clip_skip_is_for_sd1_alone(sd1, sd2, sdxl):
    """Its modules/sd_hijack_open_clip.py knows none, and `sdxl_clip_l_skip` is off."""
    for bundle, works in ((sd1, True), (sd2, False), (sdxl, False)):
        plain, skipped = (encode(bundle, "a (red:1.2) apple", clip_skip=skip).embeds for skip in (0, 1))
        assert torch.equal(plain, skipped) != works


def test_schedules_alternations_and_composition(sd1):
    toy = embedding_for(sd1)
    made = encode(sd1, "a [cat:dog:0.5] AND [red|<toy>]:0.4", embeddings=[toy], steps=4)
    first, second = made.parts
    assert (first.weight, second.weight) == (1.0, 0.4)
    assert [(until, entry.text) for until, entry in first.entries] == [(2, "a cat"), (4, "a dog")]
    assert [first.at(step).text for step in range(4)] == ["a cat", "a cat", "a cat", "a dog"]
    assert [second.at(step).text for step in range(4)] == [" red", " red", " <toy>", " red"]
    assert second.at(0) is second.at(3)  # encoded once
    assert close(first.at(3).embeds, encode(sd1, "a dog").embeds)
    assert [use.name for use in made.applied] == ["toy"]


def test_a_weight_that_is_no_number_stops(sd1):
    with pytest.raises(InputError, match="the weight of 'cat' in the prompt is inf"):
        encode(sd1, "(" * 10_000 + "cat")
    with pytest.raises(InputError, match=r"the weight of 'cat' in the prompt is 1e\+39; use a smaller one"):
        encode(sd1, f"(cat:1{'0' * 39})")  # more than float32 holds
    with pytest.raises(InputError, match="nan"):
        encode(sd1, "(cat:nan)", dialect="comfy")


def test_vectors_far_from_the_norms_of_words_are_named(sd1):
    usual = sd1.towers[0].word_norm
    for norm, told in ((1, False), (20, False), (30, True), (1 / 30, True)):
        toy = Embedding("toy", {"clip": torch.nn.functional.normalize(torch.ones(2, 32)) * norm * usual})
        ((_, entry),) = encode(sd1, "a <toy>, <toy>", embeddings=toy).parts[0].entries
        assert [note.startswith("<toy>: its vectors have norms of") for note in entry.notes] == [True] * told
    huge = Embedding("toy", {"clip": torch.full((1, 32), 3e38)})
    with pytest.raises(
        InputError, match=r"<toy>: its vectors have a norm of 1\.7e\+39, where words have about"
    ):
        encode(sd1, "a <toy>", embeddings=huge)


def test_notes_shorten_words_that_are_cut(sd1):
    (part,) = encode(sd1, "x" * 500).parts
    assert all(len(note) < 250 for _, entry in part.entries for note in entry.notes)


def test_options_out_of_range_stop(sd1):
    with pytest.raises(InputError, match="dialect"):
        encode(sd1, "cat", dialect="french")
    with pytest.raises(InputError, match="clip_skip"):
        encode(sd1, "cat", clip_skip=-1)


def test_compel_says_what_it_cannot_do(sd1):
    for prompt, says in (("a cat.swap(dog)", "swap"), ("a cat withLora(x)", "--lora")):
        with pytest.raises(InputError, match=says):
            encode(sd1, prompt, dialect="compel")


def test_the_bundled_model_and_other_context_lengths(emoji):
    context = emoji.towers[0].context_length
    made = encode(emoji, "a red apple, " * 20)
    assert len(made.embeds) % context == 0 and len(made.embeds) > context


def test_curly_quotes_are_straight_in_the_a1111_dialect_alone(sd1):
    """As the tokenizers of the web UI, which clean with ftfy."""
    prompt = "a (don’t:1.2) “cat” &amp; ﬁsh， dog"
    made = encode(sd1, prompt)
    assert close(made.embeds, encode(sd1, 'a (don\'t:1.2) "cat" & fish, dog').embeds)
    assert [prompt[slice(*span.source)] for span in made.spans] == [span.text for span in made.spans]
    assert "don’t" in [span.text for span in made.spans]
    plain = encode(sd1, "“cat”", dialect="comfy")
    assert not close(plain.embeds, encode(sd1, '"cat"', dialect="comfy").embeds)


def test_a_prompt_goes_through_the_encoder_once(sd1, monkeypatch):
    """The empty text is not encoded beside it unless something is filled up with it."""
    runs = []
    forward = type(sd1.towers[0].encoder).forward

    def counting(*arguments, **settings):
        runs.append(1)
        return forward(*arguments, **settings)

    monkeypatch.setattr(type(sd1.towers[0].encoder), "forward", counting)
    encode(sd1, "a red apple")
    assert len(runs) == 1
