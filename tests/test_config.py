import json
import re
from typing import Annotated

import pytest
from pydantic import Field

import lab
from lab.config import Config, ExistingFile, ExistingFolder, ExistingPath, one_of, validated
from lab.errors import InputError, did_you_mean
from lab.sample.config import GenerateConfig
from lab.search.search import search
from lab.training.config import TrainConfig


class Example(Config):
    steps: int = Field(20, ge=1)
    scheduler: str = "ddim"


def test_yaml_survives_the_round_trip(tmp_path):
    config = GenerateConfig(prompt=["a: b", "c"], seeds=[1, 2, 3], steps=7, guidance_interval=(0.5, 3.0))
    (tmp_path / "x.yaml").write_text(config.to_yaml())
    assert GenerateConfig.read(tmp_path / "x.yaml") == config


def test_flags_go_on_top(tmp_path):
    (tmp_path / "x.yaml").write_text("steps: 5\nscheduler: euler\n")
    assert Example.read(tmp_path / "x.yaml", {"steps": 9}) == Example(steps=9, scheduler="euler")


def test_one_prompt_is_a_list_of_one():
    assert GenerateConfig.build({"prompt": "a cat"}).prompt == ["a cat"]


def test_configs_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Example().steps = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 5\n\nsceduler: euler\n", "{file}:3: unknown key 'sceduler'; nearest: scheduler"),
        (
            "scheduler: ddim\nsteps: 0\n",
            "{file}:2: steps: input should be greater than or equal to 1 (given: 0)",
        ),
        ("steps: [\n", "{file}:2: not valid YAML"),
        ("- a\n", "{file}:1: expected 'key: value' lines, found list"),
    ],
)
def test_errors_name_file_line_and_key(tmp_path, text, message):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        Example.read(file)
    assert str(caught.value).startswith(message.format(file=file))


def test_a_bad_flag_is_not_blamed_on_the_file(tmp_path):
    (tmp_path / "x.yaml").write_text("steps: 5\n")
    with pytest.raises(InputError, match=r"^options: steps"):
        Example.read(tmp_path / "x.yaml", {"steps": 0})


def test_missing_and_binary_files_are_one_line(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("x.yaml", "absent.yaml"):
        with pytest.raises(InputError, match="cannot read the config file"):
            Example.read(tmp_path / name)


def test_every_option_has_a_help_text():
    missing = [name for name, field in GenerateConfig.model_fields.items() if not field.description]
    assert not missing


def test_did_you_mean():
    assert did_you_mean("eulr", ["euler", "euler-a", "ddim"]) == "; nearest: euler, euler-a"
    assert did_you_mean("xyz", ["ddim", "lcm"]) == "; known: ddim, lcm"


SHAPES = {"round": 1, "square": 2}


class Chosen(Config):
    shape: Annotated[str, one_of(SHAPES, "shape")] | None = None
    """What it looks like."""

    shapes: list[Annotated[str, one_of(SHAPES, "shape")]] = Field(default_factory=list)
    """All of them."""

    file: ExistingFile | None = None
    folder: ExistingFolder | None = None
    either: ExistingPath | None = None


class Inherited(Chosen):
    pass


def test_a_table_makes_an_option_with_the_nearest_names(monkeypatch):
    with pytest.raises(InputError, match=r"^options: shape: unknown shape 'squar'; nearest: square$"):
        Chosen.build({"shape": "squar"})
    with pytest.raises(InputError, match=r"^options: shapes.0: unknown shape"):
        Chosen.build({"shapes": ["squar"]})
    monkeypatch.setitem(SHAPES, "squar", 3)
    assert Chosen.build({"shape": "squar"}).shape == "squar"


def test_a_tables_names_are_in_the_help_text_and_the_schema():
    for kind in (Chosen, Inherited):
        described = kind.model_fields["shape"].description, kind.model_fields["shapes"].description
        assert described == (
            "What it looks like. [choices: round, square]",
            "All of them. [choices: round, square]",
        )
    assert '"enum": ["round", "square"]' in json.dumps(Chosen.model_json_schema())


def test_inputs_have_to_be_there(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    for settings, said in [
        ({"file": tmp_path / "y"}, "file: .*y: no such file$"),
        ({"file": str(tmp_path)}, "file: .* is a folder, and a file is wanted$"),
        ({"folder": str(tmp_path / "y")}, "folder: .*y: no such folder$"),
        ({"folder": tmp_path / "x.txt"}, "folder: .* is a file, and a folder is wanted$"),
        ({"either": tmp_path / "y"}, "either: .*y: no such file or folder$"),
    ]:
        with pytest.raises(InputError, match=said):
            Chosen.build(settings)
    Chosen.build({"file": tmp_path / "x.txt", "folder": tmp_path, "either": tmp_path})


def test_paths_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Chosen.build({"folder": "~"}).folder == tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "steps: 5\nscheduler: euler\nsteps: 6\n",
            ":3: not valid YAML: 'steps' stands twice, first on line 1",
        ),
        ("prompt: a\naxes: {steps: 1, steps: 2}\n", ":2: not valid YAML: 'steps' stands twice"),
        ("prompt: [cat:dog:0.5]\n", r":1: not valid YAML: is \[cat:dog:0.5\] a list, or prompt syntax"),
        ("negative_prompt: [cat|dog]\n", r":1: not valid YAML: is \[cat\|dog\] a list"),
        ("seeds: 1:30\n", ":1: seeds: '1:30' is no seed"),
        ("seeds: 0x10\n", ":1: seeds: '0x10' is no seed"),
        ("seeds: " + "1" * 5000, "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("1: x\n", ":1: unknown key '1'"),
        ("no: x\n", ":1: unknown key 'no'"),
        ("? [a]\n: x\n", ":1: not valid YAML"),
    ],
)
def test_what_yaml_would_drop_or_turn_is_refused(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        GenerateConfig.read(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("prompt: no", "prompt", ["no"]),
        ("prompt: [off, 2024-01-01, yes, 1_0, =]", "prompt", ["off", "2024-01-01", "yes", "1_0", "="]),
        ("negative_prompt: on", "negative_prompt", "on"),
        ("negative_prompt: [blurry]", "negative_prompt", "blurry"),
        ("negative_prompt: ~", "negative_prompt", None),
        ("seeds: 010", "seeds", "010"),
        ("seeds: [3]", "seeds", "3"),
        ("steps: 010", "steps", 10),
        ("karras: yes", "karras", True),
        ("strength: 1e-1", "strength", 0.1),
        ("\ufeffsteps: 5", "steps", 5),
    ],
)
def test_values_are_what_they_look_like(tmp_path, text, key, value):
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    assert getattr(GenerateConfig.read(tmp_path / "x.yaml"), key) == value


@pytest.mark.parametrize(
    "text", ["no", "010", "08", "1:30", "~", "1e-3", "2024-01-01", "[a:b:0.5]", "=", "a\u2028b"]
)
def test_texts_that_look_like_values_survive_the_round_trip(tmp_path, text):
    config = GenerateConfig(prompt=[text, text + " "], negative_prompt=text)
    (tmp_path / "x.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert GenerateConfig.read(tmp_path / "x.yaml") == config


def test_python_values_are_taken_as_meant(tmp_path):
    import numpy as np
    import torch

    (tmp_path / "x.pt").write_bytes(b"")
    config = GenerateConfig(
        embedding=tmp_path / "x.pt", seeds=np.int64(3), dtype=torch.float16, prompt=("a", "b")
    )
    assert config.embedding == [str(tmp_path / "x.pt")] and config.seeds == "3" and config.dtype == "float16"
    assert config.prompt == ["a", "b"]
    config = GenerateConfig(seeds=np.arange(2), device=torch.device("cpu"))
    assert config.seeds == "0,1" and config.device == "cpu"


def test_what_is_no_object_is_told_without_pydantics_names():
    with pytest.raises(InputError, match=r"^x\.json: expected an object with keys, not list$"):
        validated(Example, [], "x.json")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": None}, "prompt: is empty; give a value, or leave it out"),
        ({"prompt": 1.5}, "what is text stands in quotes"),
        ({"init_image": 3}, "init_image: expected a path, not int"),
        ({"embeddings": "\ud800"}, "holds half a character"),
    ],
)
def test_values_of_another_kind_say_what_is_wanted(settings, said):
    with pytest.raises(InputError, match=said):
        GenerateConfig.build(settings)


def test_home_is_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.pt").write_bytes(b"")
    config = GenerateConfig.build({"out": "~/made", "embedding": "~/x.pt", "embeddings": "~"})
    assert config.out == tmp_path / "made" and config.embeddings == [tmp_path]
    assert GenerateConfig.build({"out": "~nobody-here/x"}).out.parts[0] == "~nobody-here"


@pytest.mark.parametrize(
    "option", ["embedding", "init_image", "lora", "prompt_file", "embeds", "config_folder", "embeddings"]
)
def test_a_name_that_is_too_long_is_a_file_that_is_not_there(option):
    with pytest.raises(InputError, match="no such"):
        GenerateConfig.build({option: f"/tmp/{'x' * 300}"})


@pytest.mark.parametrize("value", ["nan", "inf", float("nan")])
def test_what_is_not_finite_is_refused_as_such(value):
    with pytest.raises(InputError, match="learning_rate: input should be a finite number"):
        TrainConfig.build({"learning_rate": value})


def test_of_many_known_names_some_are_listed_and_long_values_are_cut():
    with pytest.raises(InputError) as error:
        GenerateConfig.build({"zzzz": 1})
    assert re.search(r"and \d\d more$", str(error.value)) and len(str(error.value)) < 500
    with pytest.raises(InputError) as error:
        GenerateConfig.build({"seeds": ",".join(map(str, range(100_000))) + ",99999"})
    assert "seed 99999 is given twice" in str(error.value) and len(str(error.value)) < 300


def test_characters_that_no_yaml_has_are_one_line(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"prompt: a\0b")
    with pytest.raises(InputError, match=r"x\.yaml: not valid YAML: unacceptable character"):
        GenerateConfig.read(path)


@pytest.mark.parametrize("work", [lab.generate, lab.train, lab.compare, search])
def test_what_stands_in_a_configs_place_is_told_as_such(sd1, work):
    with pytest.raises(InputError, match=r"config: expected \w+Config, not str; everything else is given by"):
        work(sd1, "a red apple")


@pytest.mark.parametrize("work", [lab.generate, lab.train, search])
def test_which_model_is_nothing_to_ask_where_one_is_loaded(sd1, work):
    with pytest.raises(InputError, match="'device' does not apply to a loaded bundle; give it"):
        work(sd1, device="cpu")


@pytest.mark.parametrize("work", [lab.generate, lab.train, lab.compare, search, lab.encode])
def test_a_models_name_in_a_bundles_place_is_told_as_such(work):
    with pytest.raises(InputError, match=r"bundle: expected what lab\.load returns, not str"):
        work("emoji", "a red apple") if work is lab.encode else work("emoji")
