import pytest
from pydantic import Field

from lab.config import Config
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
