"""A whole comparison on a tiny random model: pairs, tables, resuming, refusals."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import lab
from lab.comparing.axes import AXES, option_axis
from lab.comparing.effects import VariantEffect, effect_sentences
from lab.embeddings.embedding import Embedding
from lab.score.formulas import diversity
from lab.score.metrics import METRICS, Metric
from tests.comparing.conftest import PROMPTS
from tests.listening import Heard


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(sd1, clip_folder, tmp_path_factory):
    """A run with two axes, its folder and its report."""
    config = lab.CompareConfig(
        prompts=["a red apple", "a (dog:1.2) on white"],
        seeds="1-3",
        axes={"negative_prompt": ["", "blurry"], "guidance": [3, 6]},
        steps=2,
        clip=clip_folder,
        out=tmp_path_factory.mktemp("runs") / "run",
    )
    return lab.compare(sd1, config)


def test_what_a_run_folder_holds(finished):
    names = {path.name for path in finished.folder.iterdir() if not path.name.startswith(".")}
    tables = {"results.csv", "effects.csv"}
    assert names == {"config.yaml", "contents.sha256", *tables, "cells", "index.html", "report.html"}
    assert len(list((finished.folder / "cells").glob("*.png"))) == 24


def test_results_have_a_row_an_image(finished):
    rows = read(finished.folder / "results.csv")
    assert len(rows) == 24
    row = rows[-1]
    assert row["variant"] == "negative_prompt=blurry, guidance=6" and row["prompt"] == "a (dog:1.2) on white"
    assert (row["seed"], row["guidance"], row["steps"], row["negative_prompt"]) == ("3", "6", "2", "blurry")
    assert (finished.folder / row["file"]).is_file()
    for name in ("clip_text", "clip_baseline", "ssim_baseline", "diversity", "sharpness", "colourfulness"):
        assert np.isfinite(float(row[name]))


def test_effects_are_mean_paired_differences(finished):
    rows, effects = read(finished.folder / "results.csv"), read(finished.folder / "effects.csv")
    assert list(effects[0]) == ["variant", "metric", "difference", "low", "high", "p", "win_rate", "n"]
    assert len(effects) == 3 * 6
    base = {(r["prompt"], r["seed"]): r for r in rows if r["baseline"] == "True"}
    for effect in effects:
        metric = effect["metric"]
        pairs = [
            float(row[metric]) - float(base[row["prompt"], row["seed"]][metric])
            for row in rows
            if row["variant"] == effect["variant"]
        ]
        assert float(effect["difference"]) == pytest.approx(
            np.mean(pairs), abs=1e-3 * max(1, abs(np.mean(pairs)))
        )
        assert effect["n"] == ("2" if metric == "diversity" else "6")
        if metric == "diversity":  # two prompts have two values
            assert effect["low"] == effect["high"] == effect["p"] == ""
        else:
            assert float(effect["low"]) <= float(effect["difference"]) <= float(effect["high"])
    assert [row["metric"] for row in finished.effects] == [row["metric"] for row in effects]


def test_images_are_those_of_generate(finished, sd1):
    rows = read(finished.folder / "results.csv")
    row = next(r for r in rows if r["variant"] == "negative_prompt=blurry, guidance=6" and r["seed"] == "2")
    (alone,) = lab.generate(
        sd1, prompt=row["prompt"], negative_prompt="blurry", guidance=6.0, seeds=2, steps=2
    )
    with Image.open(finished.folder / row["file"]) as image:
        difference = np.asarray(image, dtype=int) - np.asarray(alone.image, dtype=int)
    assert np.abs(difference).max() <= 1


def test_diversity_is_that_of_the_images(finished, clip_folder):
    from lab.images import read_pixels
    from lab.score.clip import load_clip

    rows = [r for r in read(finished.folder / "results.csv") if r["baseline"] == "True"][:3]
    pixels = torch.stack([read_pixels(finished.folder / row["file"]) for row in rows])
    expected = diversity(load_clip(clip_folder).images(pixels)).item()
    assert [float(row["diversity"]) for row in rows] == pytest.approx([expected] * 3, abs=1e-4)


def test_a_variant_that_is_the_baseline_changes_nothing(sd1, config, denoised):
    report = lab.compare(
        sd1, config(axes={"prompt_replace": ["apple", "apple "]}, prompts=["an apple", "a dog"])
    )
    assert len(denoised) == 9  # the second prompt's images are shared
    assert all(abs(row["difference"]) < 100 for row in report.effects)


def test_an_interrupted_run_goes_on(sd1, config, denoised):
    settings = config()
    lab.compare(sd1, settings)
    before = (settings.out / "effects.csv").read_bytes()
    for path in sorted((settings.out / "cells").glob("*.png"))[3:7]:
        path.unlink()
    (settings.out / "effects.csv").unlink()
    denoised.clear()
    heard = Heard()
    lab.compare(sd1, settings, listener=heard)
    assert len(denoised) == 4 and "8 images there already" in heard.notes[-1]
    assert (settings.out / "effects.csv").read_bytes() == before


def test_other_metrics_need_no_new_images(sd1, config, denoised):
    lab.compare(sd1, config(metrics=["sharpness"]))
    denoised.clear()
    report = lab.compare(sd1, config(metrics=["sharpness", "clip_text"]))
    assert not denoised and {row["metric"] for row in report.effects} == {"sharpness", "clip_text"}


def test_a_folder_of_another_run_is_left_alone(sd1, config, tmp_path):
    first = lab.compare(sd1, config(metrics=["sharpness"], seeds="1-2"))
    with pytest.raises(lab.InputError, match=r"other settings .*seeds"):
        lab.compare(sd1, config(metrics=["sharpness"], seeds="1-3"))
    stored = config().out / "config.yaml"
    again = lab.CompareConfig.read(stored, {"out": tmp_path / "again"})
    assert lab.compare(sd1, again).effects == first.effects, "config.yaml starts it again"
    stored.write_text(stored.read_text() + "edited: true\n")
    with pytest.raises(lab.InputError, match="edited"):
        lab.compare(sd1, config(metrics=["sharpness"], seeds="1-2"))


def test_few_pairs_have_no_interval_and_the_report_says_so(sd1, config):
    report = lab.compare(sd1, config(seeds="4"))
    assert all(row["low"] is None and row["high"] is None for row in report.effects)
    assert "diversity" not in {row["metric"] for row in report.effects}
    assert any("here (no interval: 2 pairs are too few)" in answer for answer in report.answers)
    page = report.page.read_text(encoding="utf-8")
    assert "There are 2 pairs of images, too few for an interval" in page
    effects = read(report.folder / "effects.csv")
    assert all(row["low"] == row["high"] == "" for row in effects)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clip": None, "metrics": ["clip_text"]}, "--clip"),
        ({"metrics": ["cmmd"]}, "--references"),
        ({"metrics": ["degraded"]}, "quality classifier"),
        ({"metrics": ["diversity"], "seeds": "1"}, "more --seeds"),
        ({"references": "nowhere"}, "no such folder"),
        ({"axes": {"scheduler": ["ddim", "dddim"]}}, "nearest: ddim"),
        ({"axes": {"model": ["emoji", "no-such-model"]}}, "unknown model"),
        ({"width": 30}, "multiple"),
        ({"heat_map": ["aple"]}, "apple"),
        ({"heat_map": ["apple"], "heat_layers": ["up_blocks.9"]}, "there are down_blocks"),
        ({"heat_layers": ["up_blocks"]}, "no heat map to take them for"),
        ({"guidance_curve": True, "axes": {"scheduler": ["ddim", "euler"]}}, "share no latents"),
        ({"prompts": ["a cat", "a <dragon>"]}, "dragon"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(sd1, config, denoised, settings, words):
    with pytest.raises(lab.InputError, match=words):
        lab.compare(sd1, config(**settings))
    assert not denoised and not config().out.exists()


def test_keywords_on_top_of_a_config(sd1, config):
    given = config(metrics=["sharpness"], model="emoji")
    report = lab.compare(sd1, given, seeds="1-2", prompts=["a (cat:1.2)"])
    assert {row["model"] for row in read(report.folder / "results.csv")} == {sd1.source}
    assert [(row["metric"], row["n"]) for row in report.effects] == [("sharpness", 2)]
    shown = report._repr_html_()
    assert "<code>negative_prompt=blurry</code>" in shown and report.page.as_uri() in shown
    assert shown.count("<tr>") == 2 and len(shown) < 5000
    with pytest.raises(lab.InputError, match="unknown option 'prompt'"):
        lab.compare(sd1, config(), prompt="a cat")


def test_an_init_image_is_where_the_images_start(sd1, config, tmp_path):
    path = tmp_path / "x.png"
    lab.generate(sd1, prompt="a dog", steps=2)[0].image.save(path)
    settings = config(init_image=path, strength=0.5, metrics=["sharpness"], seeds="1-2")
    report = lab.compare(sd1, settings)
    row = read(report.folder / "results.csv")[-1]
    (alone,) = lab.generate(
        sd1, prompt=row["prompt"], negative_prompt="blurry", seeds=2, steps=2, init_image=path, strength=0.5
    )
    with Image.open(report.folder / row["file"]) as image:
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(alone.image, dtype=int)).max() <= 1
    lab.generate(sd1, prompt="a cat", seeds=9, steps=2)[0].image.save(path)
    with pytest.raises(lab.InputError, match=r"holds a run .*init image changed"):
        lab.compare(sd1, settings)


def test_a_composed_negative_prompt_beside_one_that_takes_no_part(sd1, config):
    axes = {"guidance": [1, 5], "negative_prompt": ["", "blurry AND ugly"]}
    report = lab.compare(sd1, config(axes=axes, metrics=["ssim_baseline", "sharpness"], seeds="1-2"))
    said = dict(zip([(row["variant"], row["metric"]) for row in report.effects], report.answers, strict=True))
    unguided = "guidance=1, negative_prompt=blurry AND ugly"
    nothing = f"`{unguided}` does not change sharpness at all: nothing differs in any of the 4 pairs."
    assert said[unguided, "sharpness"] == nothing
    alike = f"`{unguided}`: structural similarity to the baseline's image is 1 throughout; nothing differs."
    assert said[unguided, "ssim_baseline"] == alike
    assert "nothing differs" not in said["guidance=5, negative_prompt=(empty)", "sharpness"]


def test_one_pair_tells_nothing_and_says_so(sd1, config):
    report = lab.compare(sd1, config(prompts=["a cat"], seeds="4", metrics=["sharpness", "clip_baseline"]))
    assert "sharpness differs by" in report.answers[0]
    assert report.answers[0].endswith("in the only pair; one pair tells nothing of others.")
    assert report.answers[1].endswith("in the only pair; 1 would be the same image.")
    assert "There is one pair of images, which tells nothing of others" in report.page.read_text("utf-8")
    alike = {"axes": {"guidance": [1, 0.5]}, "metrics": ["sharpness"], "out": config().out / "alike"}
    (answer,) = lab.compare(sd1, config(prompts=["a cat"], seeds="4", **alike)).answers
    assert answer == "`guidance=0.5` does not change sharpness at all: nothing differs in the only pair."


def test_a_metric_and_an_axis_added_to_their_tables_are_used(sd1, config, monkeypatch):
    brightness = Metric("brightness", "mean", 0, 1, 0, "here", lambda batch: batch.pixels.mean(dim=(1, 2, 3)))
    monkeypatch.setitem(METRICS, "brightness", brightness)
    monkeypatch.setitem(AXES, "karras", option_axis("karras"))
    axes = {"karras": [False, True]}
    report = lab.compare(sd1, config(axes=axes, scheduler="euler", metrics=["brightness"], seeds="1-2"))
    assert [(row["variant"], row["metric"]) for row in report.effects] == [("karras=True", "brightness")]
    assert {row["karras"] for row in read(report.folder / "results.csv")} == {"True", "False"}


def test_another_model_is_a_variant(sd1, sd2_folder, config):
    report = lab.compare(
        sd1, config(axes={"model": [sd1.source, str(sd2_folder)]}, metrics=["sharpness"], seeds="1-2")
    )
    rows = read(report.folder / "results.csv")
    assert {row["model"] for row in rows} == {sd1.source, str(sd2_folder)}
    assert {row["family"] for row in rows} == {"sd1", "sd2"}


def test_the_contents_of_another_model_tell_runs_apart(sd1, sd2_folder, config, tmp_path):
    other = shutil.copytree(sd2_folder, tmp_path / "other")
    settings = config(axes={"model": [sd1.source, str(other)]}, metrics=["sharpness"], seeds="1-2")
    lab.compare(sd1, settings)
    (other / "generation_config.json").write_text(json.dumps({"guidance": 3.0}))
    with pytest.raises(lab.InputError, match=r"generation_config.json of .*other changed"):
        lab.compare(sd1, settings)


def test_the_contents_of_an_embedding_tell_runs_apart(sd1, config, tmp_path):
    file = tmp_path / "toy.safetensors"
    settings = config(axes={"embedding": ["none", str(file)]}, metrics=["sharpness"], seeds="1-2")
    for value in (1.0, 2.0):
        Embedding("toy", {"clip": torch.full((2, 32), value)}, kind="concept").save(file)
        if value == 1.0:
            lab.compare(sd1, settings)
    with pytest.raises(lab.InputError, match="embedding toy changed"):
        lab.compare(sd1, settings)


def test_what_another_model_cannot_do_is_refused_before_anything_is_made(sd1, config, denoised):
    toy = Embedding("toy", {"clip": torch.ones(2, 32)}, kind="concept")
    axes = {"model": [sd1.source, "emoji"]}
    settings = config(axes=axes, prompts=["a cat", "a <toy>"])
    with pytest.raises(lab.InputError, match="embedding toy is 32 wide"):
        lab.compare(sd1, settings, embeddings=[toy])
    assert not denoised and not settings.out.exists()


def test_images_of_several_sizes_have_no_structural_similarity(sd1, sd2_folder, config, tmp_path):
    larger = shutil.copytree(sd2_folder, tmp_path / "larger")
    size = {"width": sd1.defaults.width * 2, "height": sd1.defaults.height * 2, "steps": 2}
    (larger / "generation_config.json").write_text(json.dumps(size))
    settings = {"axes": {"model": [sd1.source, str(larger)]}, "seeds": "1-2", "prompts": ["a cat"]}
    report = lab.compare(sd1, config(**settings))
    assert "ssim_baseline" not in {row["metric"] for row in report.effects}
    assert "pixels one by one" in report.page.read_text(encoding="utf-8")
    with pytest.raises(lab.InputError, match="pixels one by one"):
        lab.compare(sd1, config(metrics=["ssim_baseline"], out=tmp_path / "other", **settings))


def test_few_prompts_are_warned_of_before_and_after(sd1, config):
    heard = Heard()
    report = lab.compare(sd1, config(metrics=["sharpness"]), listener=heard)
    assert "There are 2 prompts" in heard.notes[0]
    assert heard.notes[0] in report.page.read_text(encoding="utf-8")


def test_embeddings_given_as_values(sd1, config):
    toy = Embedding(
        "toy", {"clip": torch.randn(2, 32, generator=torch.Generator().manual_seed(0))}, kind="concept"
    )
    settings = config(axes={"embedding": ["none", "toy"]}, metrics=["ssim_baseline"], seeds="1-2")
    report = lab.compare(sd1, settings, embeddings=[toy])
    assert report.effects[0]["difference"] < 0
    assert "Geometry of the embeddings" in report.page.read_text(encoding="utf-8")


def test_heat_maps_and_the_curve_are_in_the_report(sd1, config):
    settings = config(heat_map=["apple"], guidance_curve=True, metrics=["sharpness"], seeds="1-2")
    report = lab.compare(sd1, settings)
    page = report.page.read_text(encoding="utf-8")
    assert "Where words act" in page and "When it acts" in page
    arrays = np.load(next((report.folder / "heatmaps").glob("*.npz")))
    assert arrays["apple"].shape == (sd1.defaults.height, sd1.defaults.width)
    settings = settings.model_copy(update={"heat_layers": ["up_blocks"]})
    page = lab.compare(sd1, settings).page.read_text(encoding="utf-8")
    assert "layers in up_blocks" in page
    in_part = np.load(next((report.folder / "heatmaps").glob("*.npz")))["apple"]
    assert not np.allclose(in_part, arrays["apple"])


def test_all_images_are_on_a_page_with_what_they_are_variants_of(sd1, config):
    report = lab.compare(sd1, config(metrics=["sharpness"], seeds="1-2"))
    page = (report.folder / "index.html").read_text("utf-8")
    for path in (report.folder / "cells").glob("*.png"):
        assert page.count(f'src="cells/{path.name}"') == 1
    assert page.count("negative_prompt=blurry, seed 2") == len(PROMPTS)
    assert 'href="report.html"' in page and 'href="index.html"' in report.page.read_text("utf-8")


def test_variants_are_held_against_each_other(sd1, config, denoised):
    axes = {"negative_prompt": ["", "blurry", "dark, grey"]}
    settings = config(axes=axes, contrast=["dark, grey,blurry"], metrics=["sharpness", "ssim_baseline"])
    report = lab.compare(sd1, settings)
    names = ["negative_prompt=blurry", 'negative_prompt="dark, grey"']
    found = {row["variant"]: row for row in report.effects if row["metric"] == "sharpness"}
    assert list(found) == [*names, f"{names[1]} against {names[0]}"]
    apart, (one, other) = found[f"{names[1]} against {names[0]}"], (found[name] for name in names)
    assert apart["difference"] == pytest.approx(other["difference"] - one["difference"])
    assert f"`{names[1]}`, against `{names[0]}`," in " ".join(report.answers)
    assert f"{names[1]} against {names[0]}" in [row["variant"] for row in read(report.folder / "effects.csv")]
    denoised.clear()
    lab.compare(sd1, settings, contrast=["blurry,dark, grey"])
    assert not denoised, "a contrast needs no new images"


@pytest.mark.parametrize("contrast", ["blurry", "blurry,blurry", "blurry,dull", ",,"])
def test_a_contrast_names_two_variants(sd1, config, contrast):
    with pytest.raises(lab.InputError, match=f"contrast: '{contrast}' names no two variants"):
        lab.compare(sd1, config(contrast=[contrast]))


def test_no_sentence_contradicts_itself():
    """With several effects an interval may leave out zero where the corrected p is large: it says so."""
    effect = VariantEffect("x", "sharpness", -19.4, -25.0, -13.8, p=0.25, win_rate=0.0, n=8, among=12)
    (said,) = effect_sentences([effect])
    assert said.text == (
        "`x` may lower sharpness by 19.4 [13.8, 25.0], 0 of 8 pairs higher; alone this would be clear, "
        "as one of 12 effects it is not (p = 0.250)."
    )
    assert not said.clear and effect_sentences([replace(effect, p=0.01)])[0].clear
