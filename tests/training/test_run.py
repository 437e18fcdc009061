import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image

import lab
from lab.cli.main import main
from lab.errors import InputError
from lab.training.prepare import prepare
from lab.training.run_folder import TrainingFolder, run_config
from tests.listening import StopsAt


def weights(bundle):
    modules = {"unet": bundle.unet, "vae": bundle.vae} | {tower.key: tower.encoder for tower in bundle.towers}
    return {
        f"{part}.{key}": value.clone()
        for part, module in modules.items()
        for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_run_learns_rows_and_leaves_the_model_as_it_was(family, config, request):
    bundle = request.getfixturevalue(family)
    before = weights(bundle)
    flags = [weight.requires_grad for weight in bundle.unet.parameters()]
    embedding = lab.train(bundle, config)
    after = weights(bundle)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert flags == [weight.requires_grad for weight in bundle.unet.parameters()]
    assert all(weight.grad is None for weight in bundle.unet.parameters())
    assert embedding.name == "cat-toy" and embedding.kind == "concept"
    assert embedding.widths == {tower.key: tower.width for tower in bundle.towers} and embedding.count == 2


def test_the_folder_tells_what_happened(sd1, config):
    embedding = lab.train(sd1, config)
    lines = [json.loads(line) for line in (config.out / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "fixed_loss" in line] == [2, 4, 6]
    best = min((line for line in lines if "fixed_loss" in line), key=lambda line: line["fixed_loss"])
    file = config.out / "cat-toy.safetensors"
    read = lab.read_embedding(file)
    assert (
        torch.equal(read.vectors["clip"], embedding.vectors["clip"]) and read.provenance.step == best["step"]
    )
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["lab.base_model_hash"] == sd1.hash and metadata["lab.initial_text"] == "red apple"
    assert metadata["lab.images"] == "3" and json.loads(metadata["lab.config"])["seed"] == 0
    at_best = lab.read_embedding(config.out / "checkpoints" / f"cat-toy-{best['step']:06d}.safetensors")
    assert torch.equal(at_best.vectors["clip"], read.vectors["clip"])
    assert (config.out / "config.yaml").is_file() and "Stopped at step 6" in (
        config.out / "index.html"
    ).read_text()


def test_the_same_seed_learns_the_same_and_another_does_not(sd1, changed, tmp_path):
    one, same = (lab.train(sd1, changed(out=tmp_path / name)) for name in ("one", "same"))
    other = lab.train(sd1, changed(out=tmp_path / "other", seed=1))
    assert torch.equal(one.vectors["clip"], same.vectors["clip"])
    assert not torch.equal(one.vectors["clip"], other.vectors["clip"])


def test_accumulation_changes_nothing_but_the_last_digits(sd1, changed, tmp_path):
    whole, pieces = (
        lab.train(sd1, changed(out=tmp_path / f"{count}", batch_size=4, accumulation=count))
        for count in (1, 3)
    )
    torch.testing.assert_close(whole.vectors["clip"], pieces.vectors["clip"], atol=1e-5, rtol=0)


def test_the_objective_falls_until_it_settles(sd1, changed, heard):
    settings = {
        "steps": 400,
        "stop": "auto",
        "stop_window": 4,
        "evaluate_every": 4,
        "learning_rate": 0.02,
        "batch_size": 4,
    }
    lab.train(sd1, changed(**settings, save_every=1000), listener=heard)
    lines = [json.loads(line) for line in (changed().out / "progress.jsonl").read_text().splitlines()]
    fixed = [line["fixed_loss"] for line in lines if "fixed_loss" in line]
    assert fixed[-1] < fixed[0]
    assert lines[-1]["step"] < 400 and "settled" in heard.notes[-1]


def test_stop_after_n_steps(sd1, changed, heard):
    lab.train(sd1, changed(stop="3"), listener=heard)
    assert "step 3" in heard.notes[-1]


def test_concept_and_style_together(sd1, changed):
    more = [{"name": "ink", "objective": "style", "vectors": 1, "init": "text:blue"}]
    config = lab.TrainConfig(**changed().model_dump() | {"more": more})
    concept, style = lab.train(sd1, config)
    assert (concept.name, concept.count, concept.kind) == ("cat-toy", 2, "concept")
    assert (style.name, style.count, style.kind) == ("ink", 1, "style")
    assert (config.out / "ink.safetensors").is_file()


def test_previews_use_the_loader_of_inference(sd1, changed, heard):
    config = changed(
        steps=2, preview_every=2, preview_seeds="1,5", preview_steps=2, preview_negative="blurry"
    )
    lab.train(sd1, config, listener=heard)
    assert heard.moves.count((2, 2, "previews")) == 2
    made = sorted(path.name for path in (config.out / "previews").glob("*.png"))
    assert made == [f"{step:06d}-prompt1-seed{seed}.png" for step in (0, 2) for seed in (1, 5)]
    embedding = lab.read_embedding(config.out / "checkpoints" / "cat-toy-000002.safetensors", "cat-toy")
    again = lab.generate(
        sd1, prompt="<cat-toy>", negative_prompt="blurry", seeds=[5], steps=2, embeddings=[embedding]
    )
    with Image.open(config.out / "previews" / made[-1]) as image:
        difference = np.abs(np.asarray(image, dtype=int) - np.asarray(again[0].image))
    assert difference.max() <= 1  # two seeds in a batch, one alone: sums in another order round otherwise
    page = (config.out / "index.html").read_text()
    assert all(f"previews/{name}" in page for name in made) and 'http-equiv="refresh"' not in page
    assert "curves.png" in page and Image.open(config.out / "curves.png").size[0] > 400


def test_what_a_run_leaves_is_shown_wherever_it_ends(sd1, changed, heard, clip_folder):
    settles = {"stop": "auto", "stop_window": 2, "stop_ratio": 0.99, "evaluate_every": 1}
    config = changed(
        preview_every=100, preview_seeds="1", preview_steps=2, steps=40, clip=clip_folder, **settles
    )

    def shown():
        return [int(path.name[:6]) for path in sorted((config.out / "previews").glob("*.png"))]

    with pytest.raises(KeyboardInterrupt):
        lab.train(sd1, config, listener=StopsAt(2))
    assert shown() == [0, 2] and "Stopped at step 2; it can go on." in (config.out / "index.html").read_text()
    told = TrainingFolder(config.out).read_progress()
    assert ["similarity" in line for line in told] == [False, True]
    lab.train(sd1, resume=config.out, listener=heard)
    kept = int(re.search(r"of step (\d+), are kept", heard.notes[-1])[1])
    assert shown() == [0, 2, kept] and kept < config.steps


def test_a1111_layout(sd1, changed):
    embedding = lab.train(sd1, changed(layout="a1111"))
    assert embedding.provenance.layout == "a1111" and (changed().out / "cat-toy.pt").is_file()


def test_a_learning_rate_that_gives_nan_keeps_the_last_good_vectors(sd1, changed):
    config = changed(learning_rate=1e30, evaluate_every=100)
    with pytest.raises(
        InputError,
        match=r"learning_rate: 1e\+30 is too high, the loss was no number at step 2; the vectors of step 0 are kept",
    ):
        lab.train(sd1, config)
    kept = lab.read_embedding(config.out / "cat-toy.safetensors")
    assert kept.provenance.step == 0
    expected = prepare(sd1, config).learned.beginnings["cat-toy"].initial.vectors["clip"]
    assert torch.equal(kept.vectors["clip"], expected)


def test_vectors_that_never_moved_are_an_error(sd1, changed):
    with pytest.raises(InputError, match="never moved"):
        lab.train(sd1, changed(learning_rate=1e-30))
    assert not (changed().out / "cat-toy.safetensors").exists()


def test_a_learning_rate_of_zero_is_refused_before_the_first_step(sd1, changed):
    with pytest.raises(InputError, match="learning_rate: with 0, vectors never move"):
        lab.train(sd1, changed(learning_rate=0.0))
    assert not changed().out.exists()


def test_encoded_images_are_counted_before_the_first_step(sd1, changed, heard):
    lab.train(sd1, changed(steps=1), listener=heard)
    count = heard.moves[0][1]
    assert heard.moves[:count] == [(done, count, "images encoded") for done in range(1, count + 1)]
    assert [step.step for step in heard.steps] == [1]


def test_leaving_the_vocabularys_range_is_said_once(sd1, changed, heard):
    lab.train(sd1, changed(learning_rate=5.0), listener=heard)
    assert sum("outside the vocabulary's" in note for note in heard.notes) == 1
    heard.notes.clear()
    lab.train(
        sd1,
        changed(learning_rate=5.0, norm="clamp", out=changed().out.with_name("clamped")),
        listener=heard,
    )
    assert not any("outside the vocabulary's" in note for note in heard.notes)


def test_memory_runs_out_in_one_line(sd1, changed, monkeypatch):
    def no_memory(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(sd1.unet, "forward", no_memory)
    with pytest.raises(
        InputError, match=r"memory ran out.*--accumulation 2 \(.*--accumulation 2 --gradient-checkpointing \("
    ):
        lab.train(sd1, changed())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vectors": 0}, "vectors"),
        ({"learning_rate": 1e38}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"name": None}, "name: there is none"),
        ({"name": "red apple"}, "cannot stand in a prompt"),
        ({"name": "nul"}, "Windows can have no file"),
        ({"name": "apple."}, "Windows can have no file"),
        ({"name": "apple"}, "'apple' is a word"),
        ({"objective": "konzept"}, "objective.*concept"),
        ({"images": None}, "--images"),
        ({"stop": "soon"}, "auto, never"),
        ({"init": "apple"}, "text:apple"),
        ({"timesteps": (5, 5)}, "timesteps"),
        ({"background": "whitish"}, "no colour"),
        ({"templates": ["a photo"]}, "templates"),
        ({"track": ["wandb_of_no_one"]}, "no tracker"),
        ({"captions": "sidecar"}, "toy-0.txt"),
        ({"layout": "sdxl"}, "layout: sdxl is for SDXL"),
        ({"clip_skip": 9}, "clip skip 9"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(sd1, changed, settings, words):
    with pytest.raises(InputError, match=words) as error:
        lab.train(sd1, changed(), **settings)
    assert "\n" not in str(error.value) and not changed().out.exists()


def test_captions_without_the_placeholder_name_their_files(sd1, changed, images):
    (images / "toy-1.txt").write_text("a toy")
    (images / "toy-2.txt").write_text("red " * 80 + "<cat-toy>")
    with pytest.raises(InputError, match=r"toy-1\.png, toy-2\.png: without <cat-toy>"):
        lab.train(sd1, changed())
    (images / "toy-1.txt").write_text("a <cat-toy>")
    with pytest.raises(InputError, match=r"toy-2\.png.*cut off"):
        lab.train(sd1, changed())


def test_a_folder_with_a_run_is_not_overwritten(sd1, config):
    lab.train(sd1, config)
    with pytest.raises(InputError, match=r"holds a run already.*--resume"):
        lab.train(sd1, config)


def test_runs_without_a_folder_get_one_each(changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for expected in ("train-cat-toy", "train-cat-toy-2", "train-cat-toy-3"):
        out = run_config(changed(out=None)).out
        assert out.as_posix() == f"outputs/{expected}"
        out.mkdir(parents=True)


def test_the_default_rate_is_in_units_of_the_vocabulary(sd1, config):
    table = sd1.towers[0].encoder.get_input_embeddings().weight
    assert math.isclose(
        prepare(sd1, config).learned.beginnings["cat-toy"].rate,
        0.3 * float(table.square().mean().sqrt()),
        rel_tol=1e-4,
    )


def test_a_layout_that_holds_one_encoder_is_refused_for_two_before_weights_are_read(
    sdxl_folder, config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("lab.models.load.load_options", None)
    yaml = tmp_path / "run.yaml"
    yaml.write_text(config.model_copy(update={"model": str(sdxl_folder), "layout": "kohya"}).to_yaml())
    assert main(["train", "--config", str(yaml)]) == 2
    assert "layout: kohya holds one encoder's vectors" in capsys.readouterr().err
    assert not config.out.exists()


def test_an_offloaded_model_does_not_learn(sd1, config):
    offloaded = replace(sd1, options=sd1.options.model_copy(update={"cpu_offload": True}))
    with pytest.raises(InputError, match="cpu_offload: gradients go back"):
        lab.train(offloaded, config)
