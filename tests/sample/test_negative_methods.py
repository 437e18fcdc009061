"""The negative methods: the arithmetic of their authors, on every family and at every guidance scale."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from sd_parsers import ParserManager

import lab
from lab.analysis.heatmaps import Target, heat_maps
from lab.condition.embeds_file import write_embeds
from lab.embeddings.embedding import Embedding
from lab.models.schedulers import make_scheduler
from lab.models.unet import call_unet
from lab.sample.config import GenerateConfig, config_from_record, requests
from lab.sample.guidance import apply_guidance
from lab.sample.negatives import (
    NAG_ALPHA,
    NAG_TAU,
    NEGATIVE_METHODS,
    VSF_BIAS,
    NegativeMethod,
    perp_neg,
)
from lab.sample.plan import plan
from lab.sample.predict import Predictor
from lab.sample.record import save_result
from tests.jobs import encoding, make_job, plain

UNGUIDED = ["nag", "negpip", "vsf"]
FAMILIES = ["sd1", "sd2", "sdxl"]
LONG = "a red apple, " * 30
QUICK = {"steps": 3, "scheduler": "ddim", "seeds": 2}


class Reference:
    """Cross-attention as the authors of a method write it, for one image: a text, and behind it what is avoided."""

    def __init__(self, method, texts):
        self.method, self.texts = method, texts

    def __call__(self, layer, hidden_states, encoder_hidden_states, **_):
        def by_heads(states):
            return states[0].unflatten(-1, (layer.heads, -1)).transpose(0, 1)

        def attended(scores, values):
            return (scores.softmax(-1) @ values).transpose(0, 1).flatten(1)[None]

        queries, keys = by_heads(layer.to_q(hidden_states)), by_heads(layer.to_k(encoder_hidden_states))
        values, n = by_heads(layer.to_v(encoder_hidden_states)), self.texts
        scores = queries @ keys.mT / queries.shape[-1] ** 0.5
        if self.method == "nag":
            positive, negative = (
                attended(scores[..., :n], values[:, :n]),
                attended(scores[..., n:], values[:, n:]),
            )
            further = positive * 3 - negative * 2
            ratio = further.norm(p=1, dim=-1, keepdim=True) / positive.norm(p=1, dim=-1, keepdim=True)
            further = further * torch.minimum(ratio, torch.tensor(NAG_TAU)) / ratio
            states = further * NAG_ALPHA + positive * (1 - NAG_ALPHA)
        else:
            scale, bias = {"negpip": (1.0, 0.0), "vsf": (1.7, VSF_BIAS)}[self.method]
            shift = torch.zeros(len(encoder_hidden_states[0]))
            shift[n:] = bias
            signs = torch.ones(len(shift), 1)
            signs[n:] = -scale
            states = attended(scores + shift, values * signs)
        return layer.to_out[1](layer.to_out[0](states))


def with_reference(bundle, method, texts):
    """The bundle with diffusers' own processors but in cross-attention."""
    unet = copy.deepcopy(bundle.unet)
    chosen = Reference(method, texts)
    unet.set_attn_processor(
        {name: each if ".attn1." in name else chosen for name, each in unet.attn_processors.items()}
    )
    return unet


def job_of(bundle, method, guidance=1.0, positive="a red apple", negative="blurry dog", **settings):
    size = 8 * bundle.vae_scale
    sides = {"width": size, "height": size, "negative_method": method}
    return make_job(bundle, positive, negative, guidance=guidance, **sides, **settings)


def predicted(bundle, job):
    """What a job's first call of the U-Net predicts, and the noisy latents and the timestep that it predicts from."""
    scheduler = make_scheduler("ddim", False, bundle.scheduler_config, job.settings.steps)
    noisy = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return (
            Predictor(bundle, [job], scheduler)(noisy, scheduler.timesteps[0], 0),
            noisy,
            scheduler.timesteps[0],
        )


def latents(bundle, **settings):
    return lab.generate(bundle, **QUICK | settings)[0].latents


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", UNGUIDED)
def test_cross_attention_is_the_authors(family, method, request):
    bundle = request.getfixturevalue(family)
    job = job_of(bundle, method)
    found, noisy, timestep = predicted(bundle, job)
    text, negative = job.positive.first, job.negative.first
    avoided = negative.embeds if method == "nag" else negative.embeds[1:4]  # two words and the end token
    side = 8 * bundle.vae_scale
    added = [text.pooled[None], torch.tensor([[side, side, 0, 0, side, side]])] if family == "sdxl" else []
    with torch.inference_mode():
        unet = with_reference(bundle, method, len(text.embeds))
        expected = call_unet(unet, noisy, timestep, torch.cat([text.embeds, avoided])[None], *added)
    torch.testing.assert_close(found.guided, expected, atol=2e-5, rtol=1e-4)
    assert found.unconditional is None
    assert not torch.allclose(found.guided, predicted(bundle, job_of(bundle, "cfg"))[0].guided, atol=1e-3)


def test_perp_neg_takes_away_what_is_perpendicular_alone():
    empty, negative, first, second = torch.randn((4, 2, 4, 6, 6), generator=torch.Generator().manual_seed(0))
    weights, scale = torch.tensor([[1.0, 0.5], [0.3, -1.0]]), torch.tensor([4.0, 7.0])
    found = perp_neg(empty, negative, [first, second], weights, scale, 1.5)
    for image in range(2):
        main, other, away = (
            each[image].flatten() - empty[image].flatten() for each in (first, second, negative)
        )
        other, away = (each - (each @ main) / (main @ main) * main for each in (other, away))
        assert abs(other @ main) < 1e-3
        expected = weights[0, image] * main + weights[1, image] * other - 1.5 * away
        actual = (found[image] - empty[image]).flatten() / scale[image]
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_perp_neg_of_nothing_is_guidance_and_what_the_prompt_says_itself_is_not_taken_away(sd1):
    settings = {"prompt": "a red apple", "guidance": 6.0}
    plainly = latents(sd1, **settings)
    for avoided in ("", "a red apple"):
        found = latents(sd1, **settings, negative_prompt=avoided, negative_method="perp-neg")
        torch.testing.assert_close(found, plainly, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(latents(sd1, **settings, negative_prompt="a red apple"), plainly, atol=1e-2)


@pytest.mark.parametrize(
    ("method", "guidance", "rows"),
    [
        ("nag", 1.0, 1),
        ("negpip", 0.0, 1),
        ("vsf", 1.0, 1),
        ("nag", 5.0, 2),
        ("perp-neg", 5.0, 3),
        ("cfg", 1.0, 1),
    ],
)
def test_one_pass_where_nothing_is_guided(method, guidance, rows, sd1, monkeypatch):
    seen, forward = [], sd1.unet.forward

    def counting(sample, *args, **kwargs):
        seen.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(sd1.unet, "forward", counting)
    found = latents(sd1, prompt="a cat", negative_prompt="dog", guidance=guidance, negative_method=method)
    assert seen == [rows] * QUICK["steps"]
    assert torch.equal(found, latents(sd1, prompt="a cat", guidance=guidance)) == (method == "cfg")


@pytest.mark.parametrize("method", ["nag", "vsf"])
@pytest.mark.parametrize(("positive", "negative"), [(1, 2), (2, 1), (2, 3)])
def test_texts_of_any_length_act_guided_as_they_do_alone(method, positive, negative, sd1):
    """Guidance puts both sides into one call of the U-Net, where rows of the shorter one are repeated."""

    def job(guidance):
        made = job_of(sd1, method, guidance)
        sides = (
            encoding(sd1, "a cat", positive, seed=5),
            encoding(sd1, "blurry dog " * 30, negative, seed=6),
        )
        return replace(made, positive=plain(sides[0]), negative=plain(sides[1]))

    alone, guided = (predicted(sd1, job(scale))[0] for scale in (1.0, 4.0))
    torch.testing.assert_close(guided.conditional, alone.guided, atol=1e-5, rtol=1e-4)
    expected = apply_guidance(guided.unconditional, [alone.guided], torch.tensor([[4.0]]))
    torch.testing.assert_close(guided.guided, expected, atol=1e-4, rtol=1e-4)
    away = predicted(sd1, replace(job_of(sd1, "cfg"), positive=job(1.0).negative))[0]
    torch.testing.assert_close(guided.unconditional, away.guided, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_negpip_takes_words_of_negative_weight_out_and_negates_their_own_encoding(family, request):
    """As the extension: the text without them, and behind it rows 1 to n + 1 of each encoded by itself."""
    bundle = request.getfixturevalue(family)
    settings = GenerateConfig(
        prompt="a (red:-1.5) apple on (blue dog:-1) white",
        negative_prompt="",
        negative_method="negpip",
        guidance=1,
    )
    (job,) = plan(bundle, requests(settings))
    entry = job.positive.first
    whole, red, dog = (
        lab.encode(bundle, text) for text in ("a  apple on  white", "(red:1.5)", "(blue dog:1)")
    )
    assert torch.equal(entry.embeds, whole.embeds)
    assert torch.equal(entry.negated.embeds, torch.cat([red.embeds[1:3], dog.embeds[1:4]]))
    assert [(span.text, span.start, span.weight) for span in entry.negated.spans] == [
        ("red", 0, -1.5),
        ("blue", 2, -1.0),
        ("dog", 3, -1.0),
    ]
    if family == "sdxl":
        torch.testing.assert_close(entry.pooled, whole.pooled)


def test_negpip_is_the_prompt_itself_without_negative_weights_and_the_negative_prompt_joins_unguided(sd1):
    inside = latents(sd1, prompt="a apple (red:-1)", guidance=1, negative_method="negpip")
    beside = latents(sd1, prompt="a apple", negative_prompt="red", guidance=1, negative_method="negpip")
    torch.testing.assert_close(inside, beside, atol=1e-5, rtol=1e-4)
    guided = {"prompt": "a apple", "negative_prompt": "red", "guidance": 5}
    assert torch.equal(latents(sd1, **guided, negative_method="negpip"), latents(sd1, **guided))


@pytest.mark.parametrize("dialect", ["a1111", "comfy"])  # compel's grammar has no negative weights
def test_negative_weights_are_refused_where_they_take_nothing_away(dialect, sd1):
    prompt = "a [cat:(red:-1):2]" if dialect == "a1111" else "a (red:-1) cat"
    with pytest.raises(
        lab.InputError, match=r"'red' has the weight -1, .*--negative-method negpip"
    ) as caught:
        latents(sd1, prompt=prompt, dialect=dialect)
    assert "\n" not in str(caught.value)
    with pytest.raises(lab.InputError, match="'red' has the weight -1"):
        latents(sd1, prompt="cat", negative_prompt=prompt, dialect=dialect, guidance=1, negative_method="nag")
    assert latents(sd1, prompt=prompt, dialect=dialect, negative_method="negpip").isfinite().all()
    assert lab.encode(sd1, prompt, dialect=dialect).embeds.isfinite().all()  # as the tool does


def test_negative_weights_that_a_file_of_embeds_has_multiplied_are_refused(sd1, tmp_path):
    path = tmp_path / "minus.safetensors"
    write_embeds(path, lab.encode(sd1, "a cat (red:-1)"), {})
    for side in ("embeds", "negative_embeds"):
        asked = {"prompt": "a dog", "steps": 1} if side == "negative_embeds" else {"steps": 1}
        with pytest.raises(lab.InputError, match="give the prompt itself"):
            lab.generate(sd1, negative_method="negpip", **asked | {side: path})


def test_a_break_in_brackets_is_no_word_of_the_users_and_stays(sd1):
    settings = {"prompt": "a (red BREAK apple:1.2)", "guidance": 5}
    assert torch.equal(latents(sd1, **settings), latents(sd1, **settings, negative_method="negpip"))


@pytest.mark.parametrize("method", NEGATIVE_METHODS)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_embeddings_weights_schedules_compositions_and_long_prompts_act(method, guidance, sd1):
    bad = Embedding("bad", {"clip_l": torch.randn((3, 32), generator=torch.Generator().manual_seed(1))})
    settings = {"guidance": guidance, "embeddings": [bad], "negative_method": method}
    prompt = "a red apple AND a [cat:dog:2] :0.6" if guidance > 1 else "a [cat:dog:2]"
    negatives = ["", "<bad>", "(<bad>:1.5)", f"<bad>, {LONG}", "[<bad>:blurry:1]"]
    if NEGATIVE_METHODS[method].negates and guidance > 1:
        made = [
            latents(sd1, prompt=f"{prompt} ({text or 'a'}:-1)", **settings) for text in ("<bad>", "red", LONG)
        ]
    else:
        made = [latents(sd1, prompt=prompt, negative_prompt=text, **settings) for text in negatives]
    acts = guidance > 1 or method in UNGUIDED
    for one, other in pairwise(made):
        assert one.isfinite().all()
        assert torch.allclose(one, other, atol=1e-4) != acts


@pytest.mark.parametrize("method", NEGATIVE_METHODS)
def test_images_do_not_depend_on_their_company(method, sd1):
    negated = ["a dog (red:-1)", "a dog (blurry blue cat:-1)"] if method == "negpip" else []
    prompts = ["a cat", *negated, LONG]
    settings = {
        "negative_prompt": "blurry",
        "guidance": 1 if method in UNGUIDED else 5,
        "negative_method": method,
    }
    together = lab.generate(sd1, prompt=prompts, **settings, **QUICK)
    for prompt, one in zip(prompts, together, strict=True):
        torch.testing.assert_close(one.latents, latents(sd1, prompt=prompt, **settings), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", NEGATIVE_METHODS)
def test_outside_of_its_interval_the_negative_prompt_is_not_there(method, sd1):
    text = "a cat (red:-1)" if method == "negpip" else "a cat"
    settings = {"negative_prompt": "dog", "guidance": 5.0, "negative_method": method}

    def within(*interval):
        return latents(sd1, prompt=text, **settings, negative_interval=interval)

    nothing = latents(sd1, prompt="a cat ", guidance=5.0)
    torch.testing.assert_close(within(1e6, 1e7), nothing, atol=1e-5, rtol=1e-4)
    assert torch.equal(within(0, 1e9), latents(sd1, prompt=text, **settings))
    assert not any(torch.allclose(within(0, 1.0), other, atol=1e-3) for other in (nothing, within(0, 1e9)))


def test_an_empty_interval_and_a_strength_that_nothing_has_are_one_line(sd1):
    with pytest.raises(lab.InputError, match=r"negative_interval: .* LOW before HIGH"):
        latents(sd1, prompt="a cat", negative_interval=(2.0, 1.0))
    with pytest.raises(lab.InputError, match="negative_strength: cfg has none"):
        latents(sd1, prompt="a cat", negative_strength=2.0)


@pytest.mark.parametrize("method", ["nag", "negpip"])
def test_a_record_names_the_method_makes_the_image_again_and_other_tools_read_it(method, sd1, tmp_path):
    (made,) = lab.generate(
        sd1, prompt="a cat, red", negative_prompt="a dog", guidance=1, negative_method=method, **QUICK
    )
    assert made.record["negative_method"] == method
    assert made.record["negative_strength"] == NEGATIVE_METHODS[method].strength
    (again,) = lab.generate(sd1, config_from_record(made.record))
    assert torch.equal(again.latents, made.latents)
    save_result(tmp_path / "cat.png", made.image, made.record)
    parsed = ParserManager().parse(tmp_path / "cat.png")
    assert parsed.prompts[0].value == "a cat, red" and parsed.negative_prompts[0].value == "a dog"
    assert parsed.samplers[0].parameters["cfg_scale"] == "1"
    key, value = NEGATIVE_METHODS[method].a1111
    assert parsed.metadata[key] == value
    assert float(parsed.metadata["Negative strength"]) == NEGATIVE_METHODS[method].strength


def test_heat_maps_of_the_prompt_are_there_whatever_acts_beside_it(sd1):
    for method in NEGATIVE_METHODS:
        for guidance in (1.0, 5.0):
            job = make_job(sd1, guidance=guidance, negative_method=method)
            job = replace(job, empty=plain(encoding(sd1, "")))
            (maps,) = heat_maps(sd1, [job], [Target("apple")])
            rows = [slice(0, 77)]
            total = maps.sides["positive"][0].total(rows[0], (8, 8)) / maps.sides["positive"][0].calls
            torch.testing.assert_close(total, torch.ones(8, 8), atol=1e-4, rtol=0)
            assert ("negative" in maps.sides) == (guidance > 1)


def test_an_entry_adds_a_method_at_every_door(sd1, monkeypatch, tmp_path):
    def towards(empty, negative, conditionals, weights, scale, strength):
        return strength * negative + (1 - strength) * empty

    monkeypatch.setitem(
        NEGATIVE_METHODS, "towards", NegativeMethod("goes there", strength=1.0, guide=towards)
    )
    made = lab.generate(
        sd1, prompt="a cat", negative_prompt="a dog", negative_method="towards", guidance=3, **QUICK
    )
    torch.testing.assert_close(
        made[0].latents, latents(sd1, prompt="a dog", guidance=1), atol=1e-4, rtol=1e-4
    )
    assert config_from_record(made[0].record).negative_method == "towards"
    settings = {"prompt": "a cat", "negative_prompt": "a dog", "negative_method": "towards", "guidance": 3}
    assert torch.equal(
        latents(sd1, **settings, negative_strength=0), latents(sd1, **settings | {"negative_prompt": ""})
    )


def test_a_comparison_takes_the_methods_for_an_axis(sd1, tmp_path):
    settings = {"prompts": ["a cat"], "seeds": "1", "steps": 2, "guidance": 1.0, "negative_prompt": "dog"}
    report = lab.compare(
        sd1,
        **settings,
        axes={"negative_method": ["cfg", "nag", "vsf"]},
        metrics=["sharpness"],
        out=tmp_path / "out",
    )
    rows = (report.folder / "results.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4
