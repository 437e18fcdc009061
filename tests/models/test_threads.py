"""One model in two threads at once: each gets what it gets alone, to the bit, and the model is left as it was."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier, get_ident

import pytest
import torch

import lab
from lab.analysis.heatmaps import Target, heat_maps
from lab.embeddings.embedding import Embedding
from lab.models.attention import text_keys_kept
from lab.models.patches import frozen, learned_rows
from lab.sample.denoise import denoise
from tests.condition.samples import embedding_for
from tests.jobs import STEPS, make_job
from tests.training.drawings import draw


@pytest.fixture(autouse=True)
def threads_take_turns_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["sd1", "sdxl"])
def bundle(request):
    return request.getfixturevalue(request.param)


def together(*works, times=1):
    """What each work returns in a thread of its own, all begun at once, `times` in a row."""
    start = Barrier(len(works))

    def repeat(work):
        start.wait()
        return [work() for _ in range(times)]

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(repeat, work) for work in works]]


def untouched(bundle):
    modules = [module for tower in bundle.towers for module in tower.encoder.modules()]
    return not any("forward" in module.__dict__ for module in [*modules, *bundle.unet.modules()])


def cat(bundle, scale):
    """An embedding `cat` whose vectors are `scale` times those of another one of this name."""
    vectors = embedding_for(bundle, "cat").vectors
    return Embedding("cat", {key: rows * scale for key, rows in vectors.items()})


def encoding(bundle, scale, **settings):
    def work():
        made = lab.encode(
            bundle, "a <cat>, (red:1.2) " + "apple " * 90, embeddings=[cat(bundle, scale)], **settings
        )
        return made.embeds

    return work


def generating(bundle, scale):
    def work():
        samples = lab.generate(bundle, prompt="a <cat>", embeddings=[cat(bundle, scale)], steps=3, seeds=[7])
        return samples[0].latents

    return work


def mapping(bundle):
    def work():
        (maps,) = heat_maps(bundle, [make_job(bundle)], [Target("apple")])
        return maps.of(Target("apple"))

    return work


def training(bundle, folder, **settings):
    def work():
        learned = lab.train(
            bundle,
            images=draw(folder / "images"),
            name="toy",
            init="text:red apple",
            vectors=2,
            steps=4,
            batch_size=2,
            evaluate_every=2,
            evaluate_on=2,
            preview_every=0,
            stop="never",
            warmup=0,
            out=folder / "run",
            **settings,
        )
        return torch.cat([rows.flatten() for rows in learned.vectors.values()])

    return work


def check(bundle, works, times):
    alone = [work() for work in works]
    for expected, found in zip(alone, together(*works, times=times), strict=True):
        assert all(torch.equal(expected, each) for each in found)
    assert untouched(bundle)
    return alone


def test_each_thread_reads_its_own_embedding(bundle):
    works = [encoding(bundle, 1.0), encoding(bundle, -3.0), encoding(bundle, 1.0, weighting="compel")]
    first, second, _ = check(bundle, works, times=8)
    assert not torch.equal(first, second)


def test_images_made_at_once_are_those_made_alone(bundle):
    first, second = check(bundle, [generating(bundle, 1.0), generating(bundle, -3.0)], times=4)
    assert not torch.equal(first, second)


def test_heat_maps_beside_images_and_other_heat_maps(bundle):
    check(bundle, [mapping(bundle), generating(bundle, 1.0), mapping(bundle)], times=4)


def test_training_beside_images_and_texts(sd1, tmp_path):
    folders = [tmp_path / name for name in ("alone", "beside")]
    for folder in folders:
        folder.mkdir()
    alone, beside = (training(sd1, folder, gradient_checkpointing=True) for folder in folders)
    image, text = generating(sd1, 1.0), encoding(sd1, -3.0)
    expected = [alone(), image(), text()]
    found = together(beside, lambda: [image() for _ in range(3)], lambda: [text() for _ in range(8)])
    assert torch.equal(found[0][0], expected[0])
    assert all(torch.equal(each, expected[1]) for each in found[1][0])
    assert all(torch.equal(each, expected[2]) for each in found[2][0])
    assert untouched(sd1) and not sd1.unet.is_gradient_checkpointing


def test_a_thread_that_ends_first_takes_nothing_from_the_other(sd1):
    layer = next(module for name, module in sd1.unet.named_modules() if name.endswith("attn2.to_k"))
    text = torch.randn(1, 77, layer.in_features, generator=torch.Generator().manual_seed(0))
    entered, left = Barrier(2), Barrier(2)

    def first():
        with text_keys_kept(sd1.unet):
            entered.wait()
        left.wait()

    def second():
        with text_keys_kept(sd1.unet):
            entered.wait()
            left.wait()
            return layer(text) is layer(text)

    assert together(first, second)[1] == [True]
    assert untouched(sd1)


def test_overlapping_runs_keep_the_model_frozen_until_the_last_ends(sd1):
    weight = sd1.unet.conv_in.weight
    weight.requires_grad_(True)
    try:
        first, second = frozen(sd1, gradient_checkpointing=True), frozen(sd1, gradient_checkpointing=True)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not weight.requires_grad and sd1.unet.is_gradient_checkpointing
        second.__exit__(None, None, None)
        assert weight.requires_grad and not sd1.unet.is_gradient_checkpointing
    finally:
        weight.requires_grad_(False)


def test_nothing_is_replaced_where_nothing_is_learned(sd1):
    with learned_rows(sd1.towers[0].encoder, None):
        assert untouched(sd1)


def test_offloaded_parts_serve_one_thread_at_a_time(sd1):
    """A part that begins sends the one before it away: steps of two threads must not alternate."""
    offloaded = replace(sd1, options=sd1.options.model_copy(update={"cpu_offload": True}))
    steps = []

    def work():
        denoise(offloaded, [make_job(sd1)], lambda step: steps.append((get_ident(), step.index)))

    together(work, work, times=4)
    assert [index for _, index in steps] == [*range(STEPS)] * 8
