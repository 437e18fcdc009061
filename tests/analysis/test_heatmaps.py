"""Heat maps: what they must sum to, what they must not change, and whose rows they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lab
from lab.analysis.heatmaps import Target, heat_maps
from lab.condition.conditioning import Conditioning, Part
from lab.condition.prompt_parts import find_rows
from lab.embeddings.embedding import Embedding
from lab.models.attention import attention_recorded
from lab.models.unet import call_unet
from lab.sample.engine import run_jobs
from tests.jobs import STEPS, encoding, make_job, out_of_sight, plain

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(params=FAMILIES)
def bundle(request):
    return request.getfixturevalue(request.param)


def test_image_is_the_same_and_processors_are_put_back(bundle):
    job = make_job(bundle)
    (before,) = run_jobs(bundle, [job])
    processors = bundle.unet.attn_processors
    (maps,) = heat_maps(bundle, [job], [Target("apple")])
    (after,) = run_jobs(bundle, [job])
    assert np.array_equal(maps.image, before.image) and torch.equal(before.latents, after.latents)
    assert all(bundle.unet.attn_processors[name] is each for name, each in processors.items())


@pytest.mark.parametrize("heads", [(), {0, 2}])
def test_recording_never_waits_for_the_device(heads, sd1):
    bundle, text = out_of_sight(sd1), torch.zeros(1, 77, sd1.unet.config.cross_attention_dim, device="meta")
    noisy = torch.zeros(1, 4, 16, 16, device="meta")
    with torch.no_grad(), attention_recorded(bundle.unet, heads=heads) as recorder:
        call_unet(bundle.unet, noisy, torch.zeros((), device="meta"), text)
    assert all(share.is_meta for share in recorder.pop_maps().values())


def test_a_compiled_unet_is_refused_in_a_line(sd1):
    compiled = replace(sd1, options=sd1.options.model_copy(update={"compile": True}))
    with pytest.raises(lab.InputError, match="--compile"):
        heat_maps(compiled, [make_job(sd1)], [Target("apple")])


def test_maps_of_all_keys_sum_to_one_at_every_pixel(bundle):
    (maps,) = heat_maps(bundle, [make_job(bundle, width=bundle.defaults.width * 2)])
    size = maps.image.height, maps.image.width
    for side in ("positive", "negative"):
        (keys,) = maps.sides[side]
        total = keys.total(range(77), size) / keys.calls
        torch.testing.assert_close(total, torch.ones(size))
        assert (keys.total([4], size) >= 0).all() and keys.total([4], size).std() > 0


def test_probabilities_are_those_that_the_layer_used(bundle):
    unet = bundle.unet
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    layer, seen = unet.get_submodule(name), {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, output: seen.update(output=output)),
        layer.to_v.register_forward_hook(lambda _m, _i, output: seen.update(values=output)),
    ]
    job = make_job(bundle, guidance=1.0)
    mixed = []
    for head in range(layer.heads):
        with attention_recorded(unet, [name], {head}) as recorder:
            list(run_jobs(bundle, [job], observer=lambda _step: seen.update(shares=recorder.pop_maps())))
        (share,) = seen["shares"].values()
        mixed.append(share.transpose(1, 2) @ seen["values"].chunk(layer.heads, dim=-1)[head])
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(layer.to_out[0](torch.cat(mixed, dim=-1)), seen["output"])


def test_maps_do_not_depend_on_the_batch(bundle):
    jobs = [make_job(bundle, "a red apple", "blurry", seed=1), make_job(bundle, "a blue cat", "bad", seed=2)]
    targets = [Target("red"), Target("blue")], [Target("blurry", "negative"), Target("bad", "negative")]
    together = heat_maps(bundle, jobs)
    for job, maps, *own in zip(jobs, together, *targets, strict=True):
        (alone,) = heat_maps(bundle, [job])
        for target in own:
            torch.testing.assert_close(maps.of(target), alone.of(target), atol=1e-4, rtol=1e-3)


def test_all_steps_are_the_mean_of_each(sd1):
    job, target = make_job(sd1), Target("apple")
    each = [heat_maps(sd1, [job], [target], steps={step})[0].of(target) for step in range(STEPS)]
    (whole,) = heat_maps(sd1, [job], [target])
    torch.testing.assert_close(torch.stack(each).mean(dim=0), whole.of(target))
    assert not torch.allclose(each[0], each[-1])


def test_layers_and_heads_can_be_chosen(sd1):
    job, target = make_job(sd1), Target("apple")
    parts = [heat_maps(sd1, [job], layers=[part])[0].of(target) for part in ("down_", "mid_", "up_blocks")]
    (whole,) = heat_maps(sd1, [job])
    counts = [sum(part in name for name in sd1.unet.attn_processors if ".attn2." in name) for part in
              ("down_", "mid_", "up_blocks")]  # fmt: skip
    weighted = sum(count * part for count, part in zip(counts, parts, strict=True)) / sum(counts)
    torch.testing.assert_close(weighted, whole.of(target))
    heads = [heat_maps(sd1, [job], heads={head})[0].of(target) for head in range(4)]
    torch.testing.assert_close(torch.stack(heads).mean(dim=0), whole.of(target))


def test_an_embeddings_vectors_are_added_up_over_chunks(sd1):
    words = " ".join(f"w{n}" for n in range(90)) + " easy cat"
    job = make_job(sd1)
    job = replace(job, positive=plain(encoding(sd1, words, 2, embedding="easy")), negative=plain(
        encoding(sd1, "", 2)))  # fmt: skip
    (maps,) = heat_maps(sd1, [job], [Target("<easy>"), Target("w0"), Target()])
    (keys,) = maps.sides["positive"]
    rows = find_rows(keys.encoding, "embedding:easy")
    assert len(rows) == 3 and rows[0] > 77
    size = maps.image.height, maps.image.width
    each = sum(keys.total([row], size) for row in rows) / keys.calls
    torch.testing.assert_close(maps.of(Target("easy")), each)
    assert (maps.of(Target()) > maps.of(Target("easy"))).all()


def test_a_side_that_is_shorter_than_the_other_keeps_its_share(sd1):
    job = make_job(sd1)
    long, short = plain(encoding(sd1, "a red apple", 3)), plain(encoding(sd1, "blurry", 2, seed=1))
    (maps,) = heat_maps(sd1, [replace(job, positive=long, negative=short)])
    size = maps.image.height, maps.image.width
    for side, rows in (("positive", 231), ("negative", 154)):
        (keys,) = maps.sides[side]
        torch.testing.assert_close(keys.total(range(rows), size) / keys.calls, torch.ones(size))


def test_scheduled_and_composed_prompts(sd1):
    early, late, other = (encoding(sd1, text, seed=n) for n, text in enumerate(("a cat", "a dog", "a hat")))
    positive = Conditioning("...", (Part(1.0, ((1, early), (STEPS, late))), Part(0.5, ((STEPS, other),))))
    job = replace(make_job(sd1), positive=positive)
    (maps,) = heat_maps(sd1, [job], [Target(word) for word in ("cat", "dog", "hat")])
    calls = {keys.encoding.text: keys.calls for keys in maps.sides["positive"]}
    assert calls == {"a cat": 2, "a dog": STEPS - 2, "a hat": STEPS}
    (first,) = heat_maps(sd1, [job], steps={0, 1})
    torch.testing.assert_close(maps.of(Target("cat")), first.of(Target("cat")))
    with pytest.raises(lab.InputError, match="none of the chosen steps"):
        first.of(Target("dog"))


def test_words_in_a_row_and_words_that_come_twice(sd1):
    entry = encoding(sd1, "a hot dog and a red Apple and a red cat")
    assert find_rows(entry, "red apple") == [6, 7]
    assert find_rows(entry, "red") == [6, 10]
    assert find_rows(entry, "apple cat") == find_rows(entry, "app") == []


def test_rows_of_a_prompt_as_people_write_it(sd1):
    easy = Embedding("easy", {"clip": torch.ones(2, 32)})
    cond = lab.encode(sd1, "photo of a (red:1.2) apple, <easy>", embeddings=[easy])
    entry = cond.parts[0].entries[0][1]
    assert find_rows(entry, "red apple") == [4, 5]
    assert find_rows(entry, "<easy>") == find_rows(entry, "easy") == [7, 8]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target("aple"), "'aple' is not in the positive prompt 'a red apple'; nearest: apple"),
        (Target("apple", "negative"), "not in the negative prompt 'blurry'"),
    ],
)
def test_absent_words_are_refused_before_anything_is_made(sd1, monkeypatch, target, said):
    monkeypatch.setattr(sd1.unet, "forward", None)
    with pytest.raises(lab.InputError, match=said):
        heat_maps(sd1, [make_job(sd1)], [target])


def test_bad_choices_are_one_line(sd1):
    job = make_job(sd1, guidance=1.0)
    with pytest.raises(lab.InputError, match="takes no part"):
        heat_maps(sd1, [job], [Target("blurry", "negative")])
    with pytest.raises(lab.InputError, match="has no map; raise --guidance"):
        heat_maps(sd1, [make_job(sd1, guidance=1.0, negative_method="nag")], [Target("blurry", "negative")])
    with pytest.raises(lab.InputError, match="is empty"):
        heat_maps(sd1, [make_job(sd1, negative="")], [Target(None, "negative")])
    with pytest.raises(lab.InputError, match=r"there are .*mid_block"):
        heat_maps(sd1, [job], layers=["middle"])
    with pytest.raises(lab.InputError, match="counted from 0"):
        heat_maps(sd1, [job], heads={99})
    with pytest.raises(lab.InputError, match="there are 3, from 0"):
        heat_maps(sd1, [job], steps={7})


def test_arrays_come_back(sd1, tmp_path):
    targets = [Target("apple"), Target("blurry", "negative"), Target()]
    (maps,) = heat_maps(sd1, [make_job(sd1)], targets)
    maps.save_arrays(tmp_path / "maps.npz", targets)
    with np.load(tmp_path / "maps.npz") as arrays:
        assert list(arrays) == ["apple", "blurry (negative)", "all words"]
        assert np.array_equal(arrays["apple"], maps.of(targets[0]).numpy())
