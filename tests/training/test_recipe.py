"""What people share says how it was learned, and nothing of the machine."""

import json
import shutil

import pytest
import safetensors
import torch

import lab
from lab.models.load import load
from lab.training.checkpoint import recipe, without_folders
from lab.training.config import TrainConfig


@pytest.fixture
def everywhere(sd1_folder, changed, tmp_path):
    """A model and a run with as many local paths as there can be."""
    near = tmp_path / "home-of-someone"
    model = shutil.copytree(sd1_folder, near / "my-model")
    (near / "lines.yaml").write_text("- a {name} and {name2} / by {words}\n")
    bundle = load(str(model), device="cpu")
    first = lab.train(bundle, changed(steps=1, out=near / "first"))
    first.save(near / "first.safetensors")
    first.save(near / "ink.safetensors")
    config = TrainConfig(
        **changed().model_dump()
        | {
            "model": str(model),
            "more": [{"name": "ink", "vectors": 2, "init": f"file:{near}/first.safetensors"}],
            "images": shutil.copytree(changed().images, near / "pictures"),
            "init": f"file:{near}/first.safetensors",
            "templates": [f"{near}/lines.yaml", "a picture of {name}, {name2}"],
            "latents": near / "latents",
            "vae": f"{near}/vae",
            "lora": [f"{near}/ink.safetensors=0.5"],
            "out": near / "run",
        }
    )
    return bundle, config, near


@pytest.mark.parametrize("layout", ["diffusers", "a1111"])
def test_saved_embeddings_name_no_folder(layout, everywhere):
    bundle, config, near = everywhere
    lab.train(bundle, config.model_copy(update={"layout": layout}))
    saved = [
        path for path in config.out.rglob("*.*") if path.suffix in (".safetensors", ".pt") and path.is_file()
    ]
    assert len(saved) > 4
    for path in saved:
        assert near.name.encode() not in path.read_bytes(), path


def test_metadata_keep_what_is_needed_to_learn_it_again(everywhere):
    bundle, config, _ = everywhere
    lab.train(bundle, config)
    with safetensors.safe_open(config.out / "cat-toy.safetensors", "pt") as file:
        metadata = file.metadata()
    recipe = json.loads(metadata["lab.config"])
    assert metadata["ss_sd_model_name"] == recipe["model"] == "my-model"
    assert metadata["lab.base_model_hash"] == bundle.hash and metadata["lab.images"] == "3"
    assert recipe["init"] == recipe["more"][0]["init"] == "file:first.safetensors"
    assert recipe["templates"] == ["lines.yaml", "a picture of {name}, {name2}"]
    assert (recipe["images"], recipe["vae"]) == ("pictures", "vae")
    assert recipe["lora"] == ["ink.safetensors=0.5"]
    assert (recipe["steps"], recipe["batch_size"], recipe["seed"]) == (6, 2, 0)
    assert float(metadata["lab.learning_rate"]) > 0 and "out" not in recipe


def test_the_data_hash_is_of_content(sd1, changed, images, tmp_path):
    def data_hash(name):
        lab.train(sd1, changed(steps=1, out=tmp_path / name))
        with safetensors.safe_open(tmp_path / name / "cat-toy.safetensors", "pt") as file:
            return file.metadata()["lab.data_hash"]

    first = data_hash("one")
    (images / "toy-0.png").rename(images / "another.png")
    assert data_hash("renamed") == first
    (images / "toy-1.txt").write_text("another <cat-toy>")
    assert data_hash("changed") != first


def test_resuming_needs_no_metadata(sd1, changed, tmp_path):
    whole = lab.train(sd1, changed(out=tmp_path / "whole"))
    config = changed(stop="4")
    lab.train(sd1, config)
    for path in (*config.out.glob("*.safetensors"), *config.out.glob("checkpoints/cat-toy-*.safetensors")):
        path.unlink()
    resumed = lab.train(sd1, TrainConfig(resume=config.out, stop="never"))
    assert torch.equal(resumed.vectors["clip"], whole.vectors["clip"])
    assert lab.read_embedding(config.out / "cat-toy.safetensors").provenance.step == 6


def test_texts_of_a_recipe_that_are_no_paths_stay_whole(changed):
    kept = recipe(changed(revision="refs/pr/3", model="/home/me/sd15"))
    assert (kept["revision"], kept["model"]) == ("refs/pr/3", "sd15")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("emoji", "emoji"),
        ("hub:org/name", "hub:org/name"),
        ("/home/me/sd15/", "sd15"),
        ("../sd15", "sd15"),
        ("file:models/x.safetensors", "file:x.safetensors"),
        ("text:cat/dog", "text:cat/dog"),
        ("a {name} / {words}", "a {name} / {words}"),
    ],
)
def test_without_folders(text, kept):
    assert without_folders(text) == kept
