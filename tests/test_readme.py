"""The README's examples run as they stand, with few steps."""

import re
import shlex

import pytest
import torch
import uvicorn
from safetensors.torch import save_file

from lab.cli.main import COMMANDS, main
from lab.serve.app import create_app
from lab.serve.config import ServeConfig
from tests.paths import REPOSITORY
from tests.serve.running import running

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SERVED = "http://127.0.0.1:7860"
FEW = {
    "generate": ["--steps", "2"],
    "train": ["--steps", "2", "--preview-steps", "1", "--preview-seeds", "1"],
    "compare": ["--steps", "2", "--seeds", "1"],
    "serve": ["--port", "0"],
    "judge": ["--steps", "1", "--seeds", "1", "--weights", "", "--prompt", "a cat", "--prompt", "a dog"],
}
EVALUATED = ["--evaluate-on", "1"]
SLIDER = ["--things", "cup", "--sampling-steps", "1", "--measured", "1"]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def examples():
    return [
        shlex.split(line) for block in blocks("sh") for line in block.splitlines() if line.startswith("lab ")
    ]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder as the examples expect it: embeddings of the reader's own, and the repository's assets."""
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn((n, 768), generator=generator) * 0.02 for n in (8, 2)]
    save_file({"emb_params": vectors[0]}, tmp_path / "EasyNegative.safetensors")
    old = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors[1]},
        "name": "bad-hands",
        "step": 100,
    }
    torch.save(old, tmp_path / "bad-hands.pt")
    (tmp_path / "lab").symlink_to(REPOSITORY / "lab")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)


def test_every_command_line_runs(workplace, capsys, monkeypatch):
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: sockets[0].close())
    for _, command, *arguments in examples():
        few = FEW.get(command, []) + SLIDER * any("slider" in argument for argument in arguments)
        few += EVALUATED * (command == "train" and "text" not in arguments)
        code = main([command, *arguments, *few])
        assert code == 0, f"lab {command}: {capsys.readouterr().err}"


def test_every_command_has_an_example():
    start = {"demo"}  # in the first code block
    assert {command for _, command, *_ in examples()} | start == set(COMMANDS)


def test_the_first_block_is_the_two_commands():
    assert blocks("bash")[0] == 'pip install -e ".[test]" && lab demo\npytest\n'


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code, workplace, capsys, emoji):
    code = re.sub('(steps=|"steps": )12', r"\g<1>2", code)
    if SERVED in code:
        with running(create_app(ServeConfig(page=False), emoji)) as address:
            exec(compile(code.replace(SERVED, address), "README.md", "exec"), {})
    else:
        exec(compile(code, "README.md", "exec"), {})


def test_every_file_it_names_is_there():
    for name in re.findall(r"`((?:lab|scripts|configs)/[\w./-]+)`", README) + re.findall(
        r"\]\((\S+?)\)", README
    ):
        assert (REPOSITORY / name.partition("#")[0]).exists(), name
