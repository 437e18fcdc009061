"""Vectors that are learned behind the text encoder, or others in each of the U-Net's layers."""

from dataclasses import replace

import pytest
import torch

import lab
from lab.embeddings.embedding import XTI_LAYERS, Embedding
from lab.models.patches import frozen
from lab.models.unet import call_unet
from lab.training.objectives.denoising import add_noise, alphas_cumprod
from tests.paths import REPOSITORY

PLACES = [("sd1", "output"), ("sd2", "output"), ("sdxl", "output"), ("layered", "layers")]


@pytest.mark.parametrize(("family", "place"), PLACES)
def test_what_is_learned_is_what_images_are_made_with(family, place, changed, request, started, tmp_path):
    bundle = request.getfixturevalue(family)
    objective, learned = started(bundle, changed(place=place, clip_skip=1))
    generator = torch.Generator().manual_seed(1)
    learned.restore({name: torch.randn(rows.shape, generator=generator) for name, rows in learned.named()})
    (embedding,) = learned.embeddings()
    embedding.save(tmp_path / "cat-toy.safetensors")
    read = lab.read_embedding(tmp_path / "cat-toy.safetensors")
    assert read.place == place
    for example in objective.batch(0):
        text = lab.encode(bundle, example.caption, embeddings=read, dialect="plain", clip_skip=1).first
        batch = objective.data.load([example])
        alphas = alphas_cumprod(bundle)[batch.timesteps]
        noisy, target = add_noise(batch.latents, batch.noise, alphas, bundle.prediction_type)
        sdxl = (text.pooled[None], batch.time_ids) if text.pooled is not None else (None, None)
        layers = [text.layers[layer][None] for layer in XTI_LAYERS] if text.layers else ()
        predicted = call_unet(bundle.unet, noisy, batch.timesteps, text.embeds[None], *sdxl, layers=layers)
        with torch.no_grad():
            found = objective.losses([example])[0]
        torch.testing.assert_close(found, (predicted - target).square().mean(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "place"), PLACES)
def test_the_loss_falls_and_every_row_has_a_part_in_it(family, place, changed, request, started):
    bundle = request.getfixturevalue(family)
    objective, learned = started(bundle, changed(place=place))
    assert len(learned.parameters()) == (16 if place == "layers" else len(bundle.towers))
    examples, optimizer, losses = objective.batch(0), torch.optim.Adam(learned.parameter_groups()), []
    with frozen(bundle):
        for _ in range(4):
            losses.append(objective.losses(examples).mean())
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
    assert all((rows.grad.norm(dim=1) > 0).all() for rows in learned.parameters())
    assert losses[0] > losses[1] > losses[2] > losses[3]


def test_a_thing_is_learned_behind_the_encoder_of_the_bundled_model(emoji, changed, heard):
    samples = REPOSITORY / "lab" / "assets" / "samples" / "backpack"
    settings = {
        "images": samples,
        "init": "text:object",
        "steps": 6,
        "evaluate_every": 1,
        "evaluate_on": 2,
        "resolution": 64,
    }
    lab.train(emoji, changed(place="output", **settings), listener=heard)
    losses = [step.evaluation["loss"] for step in heard.steps if step.evaluation]
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize(("family", "layout"), [("sd2", "onetrainer"), ("sdxl", "sdxl"), ("layered", "xti")])
def test_it_is_written_where_tools_look_for_it_and_drawn_with(family, layout, changed, request):
    bundle, place = request.getfixturevalue(family), "layers" if family == "layered" else "output"
    made = lab.train(bundle, changed(place=place, steps=1, evaluate_on=1))
    assert (made.place, made.provenance.layout, made.count) == (place, layout, 2)
    image, *_ = lab.generate(bundle, prompt="a <cat-toy>", embeddings=[made], steps=1)
    assert image.record["applied"][0]["sha256"] == made.provenance.sha256


def test_behind_the_encoder_it_begins_at_what_comes_out_of_it(sdxl, changed, started):
    _, learned = started(sdxl, changed(place="output", init="text:red apple"))
    (made,) = learned.embeddings()
    expected = lab.encode(sdxl, "red apple").embeds[1:3]
    torch.testing.assert_close(torch.cat(list(made.outputs.values()), dim=1), expected)
    assert not any(rows.any() for rows in made.vectors.values())


def test_a_run_goes_on_to_the_bit(sd1, changed):
    settings = {"place": "output", "steps": 2, "save_every": 1, "evaluate_every": 1, "evaluate_on": 1}
    whole = lab.train(sd1, changed(**settings))
    part = changed(**settings, stop="1", out=changed().out.with_name("part"))
    lab.train(sd1, part)
    resumed = lab.train(sd1, resume=part.out, stop="never")
    assert all(torch.equal(rows, resumed.tensors[key]) for key, rows in whole.tensors.items())


def test_others_may_stand_in_captions_and_pairs_learn_both_halves(sd1, changed):
    other = Embedding("ink", {"clip": 0.02 * torch.ones(1, 32)})
    config = changed(place="output", objective="pair", guidance=3.0, templates=["a {name} in <ink>"], steps=2)
    found = lab.train(sd1, config, embeddings=[other])
    assert [one.place for one in found] == ["output", "output"]


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("sd1", {"place": "layers"}, "16 layers that read the text in SD 1.x and 2.x, and .* has 4"),
        ("sdxl", {"place": "layers"}, "take output or input"),
        ("layered", {"place": "layers", "gradient_checkpointing": True}, "leave it out with --place layers"),
        ("layered", {"place": "layers", "layout": "kohya"}, "layout: .* no place for vectors for each layer"),
        ("sd1", {"place": "output", "norm": "clamp"}, "norm: .* --place output"),
        ("sd1", {"place": "output", "layout": "diffusers"}, "layout: .* take onetrainer or sdxl"),
        (
            "sd1",
            {"place": "output", "objective": "slider", "from": "a", "to": "b", "images": None, "vectors": 1},
            "place: says nothing to --objective slider, but to concept, .*reward",
        ),
        ("sd1", {"place": "behind"}, "place"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(family, settings, words, changed, request):
    with pytest.raises(lab.InputError, match=words) as error:
        lab.train(request.getfixturevalue(family), changed(), **settings)
    assert "\n" not in str(error.value) and not changed().out.exists()


def test_a_compiled_unet_has_no_layers_to_reach(layered, changed):
    compiled = replace(layered, options=layered.options.model_copy(update={"compile": True}))
    with pytest.raises(lab.InputError, match="compile: closes the U-Net's layers"):
        lab.train(compiled, changed(place="layers"))


def test_a_file_that_acts_elsewhere_is_no_beginning(sd1, changed, tmp_path):
    Embedding("x", {"clip": torch.zeros(2, 32)}, outputs={"clip": torch.ones(2, 32)}).save(
        tmp_path / "x.safetensors"
    )
    with pytest.raises(lab.InputError, match=r"init: .* does not act in front of the text encoder"):
        lab.train(sd1, changed(init=f"file:{tmp_path}/x.safetensors"))
