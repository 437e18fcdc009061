import json
from typing import Annotated

import pytest
from pydantic import Field

from lab.config import Config, ExistingFile, ExistingFolder, ExistingPath, one_of
from lab.errors import InputError, did_you_mean
from lab.sample.config import GenerateConfig


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
