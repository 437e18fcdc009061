"""`lab.generate` to memory and to disk: a folder shows what its run is made of, or refuses."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import lab
from lab.condition.embeds_file import write_embeds
from lab.embeddings.embedding import Embedding
from lab.listening import Listener
from lab.sample.config import GenerateConfig
from tests.listening import Heard

SETTINGS = {"steps": 2, "seeds": "3,7"}


def pngs(folder):
    return sorted(path.name for path in folder.glob("0*.png"))


def toy(value):
    return Embedding("toy", {"clip": torch.full((2, 32), value)})


def test_a_folder_holds_what_memory_would(sd1, tmp_path):
    made = lab.generate(sd1, prompt=["a cat", "a dog"], **SETTINGS)
    stored = lab.generate(sd1, prompt=["a cat", "a dog"], out=tmp_path / "run", **SETTINGS)
    assert [result.index for result in stored] == [0, 1, 2, 3] and stored.folder == tmp_path / "run"
    for one, other in zip(made, stored, strict=True):
        assert one.record == other.record and np.array_equal(np.asarray(one.image), np.asarray(other.image))
        assert json.loads(other.path.with_suffix(".json").read_text()) == other.record
    assert pngs(tmp_path / "run")[1] == "00001-seed7-a-cat.png" == stored[1].path.name
    assert (tmp_path / "run" / "contact-sheet.png").is_file()


def test_a_config_is_taken_and_settings_go_on_top(sd1):
    config = lab.GenerateConfig(prompt="a cat", steps=9, guidance=2.0)
    (result,) = lab.generate(sd1, config, steps=2)
    assert (result.record["steps"], result.record["guidance"]) == (2, 2.0)


def test_notes_on_prompts_are_told_once(sd1):
    heard = Heard()
    settings = {"prompt": ["(a BREAK b:2)", "(c BREAK d:2) #e"], "negative_prompt": "bad AND ugly"}
    lab.generate(sd1, listener=heard, **SETTINGS, **settings)
    assert [note.split()[1] for note in heard.notes] == ["BREAK", "AND"]


def test_a_negative_that_takes_no_part_is_told_of_words_and_of_embeddings(sd1, tmp_path):
    path = tmp_path / "bad.pt"
    torch.save(torch.randn(77, 32), path)
    for settings in ({"negative_prompt": "bad"}, {"negative_embeds": path}, {}):
        for method in ("cfg", "negpip"):
            heard = Heard()
            asked = {"prompt": "a cat", "guidance": 1, "negative_method": method} | settings
            lab.generate(sd1, listener=heard, **SETTINGS | asked)
            told = [note for note in heard.notes if "takes no part" in note]
            assert len(told) == (method == "cfg" and bool(settings))


def test_what_is_there_is_not_made_again(sd1, tmp_path):
    class Notes(Listener):
        def __init__(self):
            self.notes, self.done = [], []

        def note(self, line):
            self.notes.append(line)

        def progress(self, done, total, things="images"):
            self.done.append((done, total))

    first = lab.generate(sd1, prompt="a cat", out=tmp_path, **SETTINGS)
    first[0].path.unlink()
    heard = Notes()
    lab.generate(sd1, prompt="a cat", out=tmp_path, listener=heard, **SETTINGS)
    assert "1 image there already" in heard.notes[0] and heard.done[-1] == (1, 1)
    assert len(pngs(tmp_path)) == 2


def prompts_edited(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    yield {"prompt_file": tmp_path / "p.txt"}
    (tmp_path / "p.txt").write_text("a cat\na frog\n")
    yield {"prompt_file": tmp_path / "p.txt"}


def embedding_changed(tmp_path):
    yield {"prompt": "a <toy>", "embeddings": [toy(0.1)]}
    yield {"prompt": "a <toy>", "embeddings": [toy(0.2)]}


def embedding_file_changed(tmp_path):
    for value in (0.1, 0.2):
        toy(value).save(tmp_path / "toy.safetensors")
        yield {"prompt": "a cat", "negative_prompt": "<toy>", "embeddings": [tmp_path]}


def init_image_changed(tmp_path):
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 32), colour).save(tmp_path / "i.png")
        yield {"prompt": "a cat", "init_image": tmp_path / "i.png"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (prompts_edited, "(prompt 2 changed)"),
        (embedding_changed, "(embedding toy changed)"),
        (embedding_file_changed, "(embedding toy changed)"),
        (init_image_changed, "(init image changed)"),
    ],
)
def test_changed_contents_are_refused_by_name(sd1, tmp_path, change, words):
    out, given = tmp_path / "run", change(tmp_path)
    settings = next(given)
    first = lab.generate(sd1, out=out, **SETTINGS, **settings)
    lab.generate(sd1, out=out, **SETTINGS, **settings)  # unchanged, it goes on
    with pytest.raises(lab.InputError) as error:
        lab.generate(sd1, out=out, **SETTINGS, **next(given))
    assert words in str(error.value) and "choose another --out" in str(error.value)
    assert pngs(out) == [result.path.name for result in first]


def test_the_same_contents_under_other_names_are_the_same_run(sd1, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("# animals\na cat\n" if name == "a" else "a cat\n\n")
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"{name}.png")
        settings = {"prompt_file": tmp_path / f"{name}.txt", "init_image": tmp_path / f"{name}.png"}
        lab.generate(sd1, out=tmp_path / "run", **SETTINGS, **settings)
    assert len(pngs(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("file", "setting"),
    [("generation_config.json", {"guidance": 3.0}), ("scheduler/scheduler_config.json", {"beta_end": 0.02})],
)
def test_changed_configs_of_the_model_are_refused_by_name(sd1_folder, tmp_path, file, setting):
    model = shutil.copytree(sd1_folder, tmp_path / "model")
    path = model / file
    settings = {"prompt": "a cat", "out": tmp_path / "run", **SETTINGS}
    lab.generate(lab.load(model, device="cpu"), **settings)
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | setting))
    with pytest.raises(lab.InputError, match=rf"\({path.name} changed\)"):
        lab.generate(lab.load(model, device="cpu"), **settings)


def test_prompt_embeddings_that_changed_are_refused(sd1, tmp_path):
    file = tmp_path / "x.safetensors"
    settings = {"embeds": file, "out": tmp_path / "run", **SETTINGS}
    write_embeds(file, lab.encode(sd1, "a cat"), {})
    lab.generate(sd1, **settings)
    write_embeds(file, lab.encode(sd1, "a (cat:1.1)"), {})
    with pytest.raises(lab.InputError, match="prompt embeddings changed"):
        lab.generate(sd1, **settings)


def test_results_show_themselves_in_a_notebook(sd1, tmp_path):
    made = lab.generate(sd1, prompt="a > b & c", **SETTINGS)
    assert made[0]._repr_png_().startswith(b"\x89PNG")
    shown = made._repr_html_()
    assert shown.count("data:image/png;base64,") == 2 and "a &gt; b &amp; c, seed 7" in shown
    assert len(made) == 2 and [result.index for result in made[1:]] == [1]


def test_options_of_the_model_are_the_bundles_to_say(sd1):
    with pytest.raises(lab.InputError, match=r"give it to lab\.load"):
        lab.generate(sd1, prompt="a cat", dtype="float16")


def test_a_disk_that_fills_up_while_images_are_made_stops_the_run(sd1, tmp_path, monkeypatch):
    """Images are written beside the work on the next ones; what was written before is whole."""
    save = Image.Image.save

    def full(image, path, **options):
        if "00001-" in str(path):
            raise OSError(28, "No space left on device")
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    settings = {"prompt": "a cat", "seeds": "1-4", "steps": 1, "batch_size": 1, "out": tmp_path / "run"}
    with pytest.raises(lab.InputError, match="disk is full"):
        lab.generate(sd1, **settings)
    written = sorted((tmp_path / "run").glob("*.png"))
    assert written[0].name.startswith("00000-") and not any("00001-" in path.name for path in written)
    monkeypatch.undo()
    assert len(lab.generate(sd1, **settings)) == 4


def test_a_folder_says_which_precision_was_taken(sd1, tmp_path):
    """By default machines take different ones, and images of two are not one run."""
    lab.generate(sd1, prompt="a cat", out=tmp_path, **SETTINGS)
    assert GenerateConfig.read(tmp_path / "config.yaml").dtype == "float32"
    half = replace(sd1, dtype=torch.bfloat16)
    with pytest.raises(lab.InputError, match="dtype"):
        lab.generate(half, prompt="a cat", out=tmp_path, **SETTINGS)
