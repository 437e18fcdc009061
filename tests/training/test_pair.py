"""A positive and a negative embedding learned together, and one unit everywhere."""

import math
import shutil

import pytest
import torch

import lab
from lab.cli.main import main
from lab.embeddings.library import collect
from lab.errors import InputError
from lab.models.patches import frozen
from lab.models.unet import call_unet
from lab.training.config import TrainConfig
from lab.training.data.caption_encoder import CaptionEncoder
from lab.training.objectives.denoising import Pair
from lab.training.prepare import prepare


@pytest.fixture
def paired(changed):
    return lambda **settings: changed(
        **{"objective": "pair", "negative_vectors": 3, "negative_init": "text:blurry", "guidance": 4.0}
        | settings
    )


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_prediction_is_what_guidance_composes(family, paired, request, started):
    bundle = request.getfixturevalue(family)
    objective, learned = started(bundle, paired())
    batch = objective.data.load(objective.batch(0))
    noisy = torch.randn(2, 4, bundle.unet.config.sample_size, 8)[..., :8, :]
    encode = CaptionEncoder(bundle, learned.placed)
    with torch.no_grad():
        composed = objective.predict(noisy, batch)
        positive, negative = (
            call_unet(bundle.unet, noisy, batch.timesteps, *encode(captions)[:2], batch.time_ids)
            for captions in (batch.captions, ["<cat-toy-neg>"] * 2)
        )
    torch.testing.assert_close(composed, negative + 4.0 * (positive - negative), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_both_halves_learn_and_nothing_else(family, paired, request, started):
    bundle = request.getfixturevalue(family)
    objective, learned = started(bundle, paired())
    with frozen(bundle):
        objective.losses(objective.batch(0)).mean().backward()
    assert list(learned.rows) == ["cat-toy", "cat-toy-neg"]
    for rows in learned.parameters():
        assert (rows.grad.norm(dim=1) > 0).all()
    assert all(weight.grad is None for weight in bundle.unet.parameters())


def test_halves_have_their_own_rates(sd1, paired):
    beginnings = prepare(sd1, paired(learning_rate=0.01, negative_rate=0.002)).learned.beginnings
    rates = {name: beginning.rate for name, beginning in beginnings.items()}
    assert rates == {"cat-toy": 0.01, "cat-toy-neg": 0.002}
    first = {name: beginning.initial.vectors["clip"] for name, beginning in beginnings.items()}
    made = lab.train(sd1, paired(learning_rate=0.01, negative_rate=0.0, steps=1, optimizer="adamw"))
    assert torch.equal(made[1].vectors["clip"], first["cat-toy-neg"])
    moved = (made[0].vectors["clip"] - first["cat-toy"]).abs()
    assert math.isclose(float(moved.max()), 0.01, rel_tol=1e-3), "Adam's first step is the rate"


def test_a_pair_is_one_unit(sd1, sd1_folder, paired, capsys):
    config = paired()
    positive, negative = lab.train(sd1, config)
    assert (positive.kind, positive.count) == ("concept", 2) and (negative.kind, negative.count) == (
        "negative",
        3,
    )
    file = config.out / "cat-toy.safetensors"
    read = lab.read_embedding(file, "toy")
    assert [each.name for each in read] == ["toy", "toy-neg"]
    assert torch.equal(read[1].vectors["clip"], negative.vectors["clip"])
    assert list(collect([str(file)])) == ["cat-toy", "cat-toy-neg"]
    assert main(["inspect", str(file)]) == 0
    assert "<cat-toy-neg>" in capsys.readouterr().out
    report = lab.compare(
        sd1,
        lab.CompareConfig(
            prompts=["a dog"],
            seeds="1-2",
            steps=2,
            axes={"embedding": ["none", str(file)]},
            metrics=["sharpness"],
            out=config.out / "compared",
        ),
    )
    assert {effect["variant"] for effect in report.effects} == {"embedding=cat-toy"}
    results = (report.folder / "results.csv").read_text()
    assert '"a dog, <cat-toy>"' in results and "<cat-toy-neg>" in results


def test_half_a_pair_is_an_error_wherever_it_is_read(sd1, paired, tmp_path):
    config = paired()
    lab.train(sd1, config)
    negative = config.out / "cat-toy-neg.safetensors"
    checkpoint = config.out / "checkpoints" / "cat-toy-000006.safetensors"
    assert not isinstance(lab.read_embedding(checkpoint), list), "a step of a run is no pair"
    negative.rename(negative.with_name("hidden.txt"))
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(config.out / "cat-toy.safetensors", alone)
    for read in (
        lambda: lab.read_embedding(config.out / "cat-toy.safetensors"),
        lambda: lab.read_embedding(alone),
        lambda: collect([str(config.out / "cat-toy.safetensors")]),
        lambda: collect([config.out])["cat-toy"],
    ):
        with pytest.raises(InputError, match=r"other half is missing: cat-toy-neg\.safetensors"):
            read()
    negative.with_name("hidden.txt").rename(negative)
    (config.out / "cat-toy.safetensors").unlink()
    with pytest.raises(InputError, match=r"other half is missing: cat-toy\.safetensors"):
        lab.read_embedding(negative)


def test_dreamartists_layout_is_read_as_a_pair_too(sd1, paired):
    config = paired(layout="a1111")
    lab.train(sd1, config)
    read = lab.read_embedding(config.out / "cat-toy.pt")
    assert [each.name for each in read] == ["cat-toy", "cat-toy-neg"] and read[1].kind == "negative"


def test_a_resumed_pair_ends_the_same(sd1, paired, tmp_path):
    whole = lab.train(sd1, paired(out=tmp_path / "whole"))
    config = paired(stop="3")
    lab.train(sd1, config)
    resumed = lab.train(sd1, TrainConfig(resume=config.out, stop="never"))
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one.vectors["clip"], other.vectors["clip"])


def test_negative_captions_have_to_name_the_negative_half(sd1, paired):
    with pytest.raises(InputError, match="negative_templates: without <cat-toy-neg>"):
        Pair(sd1, paired(negative_templates=["blurry {x}"]), {})
