"""What is wrong with a command is told in one line before the engine is imported."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from lab.cli.main import COMMANDS
from tests.paths import REPOSITORY

ENGINE = (
    "torch",
    "transformers",
    "diffusers",
    "accelerate",
    "peft",
    "scipy",
    "matplotlib",
    "faiss",
    "compel",
    "fastapi",
    "uvicorn",
)

ASK = """
import contextlib, io, json, sys
from lab.cli.main import main

(commands, engine), answers = json.load(sys.stdin), []
for command in commands:
    before, out, err = set(sys.modules), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    imported = [name for name in engine if name in sys.modules and name not in before]
    answers.append((code, out.getvalue(), err.getvalue().strip().splitlines(), imported))
print(json.dumps(answers))
"""
"""Runs command lines one after the other: exit code, stdout, lines of stderr, and what each imported of the engine."""

TABLES_AND_OPTIONS = [
    *(f"lab.cli.{command}" for command in COMMANDS),
    *("lab.comparing.axes", "lab.comparing.config"),
    *("lab.condition.config", "lab.condition.conditioning", "lab.condition.weighting"),
    *("lab.embeddings.layouts", "lab.embeddings.library", "lab.embeddings.merge"),
    *("lab.models.facts", "lab.models.family", "lab.models.schedulers"),
    *("lab.prompt.dialects", "lab.runs.run", "lab.sample.config", "lab.sample.settings"),
    *("lab.score.config", "lab.score.metrics", "lab.search.config", "lab.serve.config"),
    *("lab.training.config", "lab.training.objectives.objective", "lab.training.run_folder"),
]

WINDOWS = r"C:\models\cat.safetensors"
"""A path, and neither a `prefix:` nor a `name=value`, wherever values are read."""

CONTROLLED = ["generate", "--prompt", "a", "--control-image", "README.md", "--controlnet"]

WRONG = [
    (["nope"], "nope"),
    (["generat"], "generate"),
    (["generate", "--prompt", "a", "--scheduler", "eulr"], "nearest: euler"),
    (["generate", "--prompt", "a", "--dialect", "a111"], "nearest: a1111"),
    (["generate", "--prompt", "a", "--weighting", "comfi"], "nearest: comfy"),
    (["generate", "--prompt", "a", "--stpes", 3], "--steps"),
    (["generate", "--prompt", "a", "--steps", 0], "steps"),
    (["generate", "--prompt", "a", "--dtype", "float8"], "float8"),
    (["generate", "--prompt", "a", "--device", "gpu"], "unknown device 'gpu'"),
    (["generate"], "there is none"),
    (["generate", "--prompt", "a", "--init-image", "absent.png"], "absent.png: no such file"),
    (["generate", "--prompt-file", "absent.txt"], "absent.txt: no such file"),
    (["generate", "--embeds", "absent.safetensors"], "absent.safetensors: no such file"),
    (
        ["generate", "--prompt", "a", "--negative-embeds", "absent.safetensors"],
        "absent.safetensors: no such file",
    ),
    (["generate", "--prompt", "a", "--embedding", "absent.pt"], "absent.pt: no such file"),
    (["generate", "--prompt", "a", "--embeddings", "absent"], "absent: no such file or folder"),
    (["generate", "--prompt", "a", "--embedding", rf"{WINDOWS}=kitty"], f"{WINDOWS}: no such file"),
    (["generate", "--prompt", "a", "--lora", rf"{WINDOWS}=0.5"], f"{WINDOWS}: no such file"),
    (["generate", "--prompt", "a", "--model", f"file:{WINDOWS}"], f"{WINDOWS}: no such file"),
    (["generate", "--prompt", "a", "--model", WINDOWS], WINDOWS),
    (["search", "--over", f"embeddings:{WINDOWS}", "--text", "a"], f"{WINDOWS}: no such folder"),
    (["generate", "--prompt", "a", "--lora", "absent.safetensors=0.5"], "absent.safetensors: no such file"),
    (["generate", "--prompt", "a", "--lora", "README.md=strong"], "'strong' is not a scale"),
    (["generate", "--prompt", "a", "--vae", "absent"], "unknown VAE 'absent'"),
    (["generate", "--prompt", "a", "--vae", WINDOWS], f"unknown VAE '{WINDOWS}'"),
    ([*CONTROLLED, "absent"], "unknown ControlNet 'absent'"),
    ([*CONTROLLED, f"file:{WINDOWS}"], f"{WINDOWS}: no such file"),
    (["generate", "--prompt", "a", "--model", "emojy"], "nearest: emoji"),
    (["generate", "--prompt", "a", "--model", "file:absent.safetensors"], "absent.safetensors: no such file"),
    (["generate", "--prompt", "a", "--config-folder", "absent"], "absent: no such folder"),
    (["generate", "--config", "absent.yaml"], "absent.yaml"),
    (["generate", "--prompt", "a", "--out", "README.md"], "README.md: cannot write"),
    (["generate", "--prompt", "a", "--out", "README.md/below"], "cannot write"),
    (["compare", "--prompt", "a", "--axis", "guidanc=1,2"], "guidance"),
    (["compare", "--prompt", "a", "--axis", "guidance=1,2", "--metrics", "clip_txt"], "clip_text"),
    (
        ["compare", "--prompt", "a", "--axis", "guidance=1,2", "--references", "absent"],
        "absent: no such folder",
    ),
    (["compare", "--prompt", "a", "--axis", "guidance=1,2", "--out", "README.md"], "cannot write"),
    (["train", "--name", "x", "--images", "absent"], "absent: no such folder"),
    (["train", "--name", "x", "--images", "tests", "--objective", "concpt"], "nearest: concept"),
    (["train", "--name", "x", "--images", "tests", "--out", "README.md/x"], "cannot write"),
    (["train", "--name", "x", "--images", "tests", "--model", "emojy"], "nearest: emoji"),
    (["train", "--name", "x", "--images", "tests", "--layout", "diffuser"], "diffuser"),
    (["train", "--name", "x", "--images", "tests", "--layout", "sdxl"], "layout: sdxl is for SDXL"),
    (["train", "--name", "x", "--images", "tests", "--scheduler", "pndm"], "does not rescale its betas"),
    (["serve", "--host", "0.0.0.0"], "give --api-key"),
    (["serve", "--embeddings", "absent"], "absent: no such file or folder"),
    (["serve", "--host", "192.0.2.1", "--api-key", "x"], "cannot listen on 192.0.2.1:7860"),
    (["serve", "--model", "emojy"], "nearest: emoji"),
    (["encode", "a", "--dialect", "plian"], "nearest: plain"),
    (["encode", "a", "--clip-skip", 4], "clip skip 4: the text encoder has 4 layers"),
    (["encode", "a", "--out", "README.md/x.safetensors"], "cannot write"),
    (["inspect", "absent.pt"], "absent.pt: no such file"),
    (["inspect"], "at least one"),
    (["inspect", "README.md", "--plot", "x.txt"], ".png or .svg"),
    (["inspect", "README.md", "--model", "emojy"], "nearest: emoji"),
    (["convert", "absent.pt", "x.safetensors"], "absent.pt: no such file"),
    (["convert", "README.md", "README.md/x.safetensors"], "cannot write"),
    (["merge", "absent.pt", "README.md", "--out", "x.safetensors"], "absent.pt: no such file"),
    (["merge", "README.md", "--out", "x.safetensors"], "at least two embeddings"),
    (
        ["merge", "README.md", "LICENSE", "--out", "x.safetensors", "--weights", "1"],
        "2 embeddings and 1 weights",
    ),
    (["merge", "README.md", "LICENSE", "--out", "x.txt"], "an embedding file ends in .safetensors"),
    (["convert", "README.md", "x.safetensors", "--layout", "a1111"], "the a1111 layout is a .pt file"),
    (["generate", "--prompt", "a", "--width", "65"], "65 is not a multiple of"),
    (["generate", "--prompt", "a", "--scheduler", "pndm"], "zero terminal SNR"),
    (["generate", "--prompt", "a", "--clip-skip", "11"], "the text encoder has"),
    (["generate", "--prompt", "<absent>"], "no embedding of that name"),
    (["search", "--text", "a"], "nothing to search"),
    (["search", "--text", "a", "--over", "prompts:absent.txt"], "absent.txt: no such file"),
    (["search", "--text", "a", "--over", "vocabulary", "--index", "README.md"], "README.md"),
    (["rerun", "absent.png"], "absent.png"),
    (["models", "emojy"], "nearest: emoji"),
    (["demo", "--device", "gpu"], "unknown device 'gpu'"),
    (["demo", "--out", "README.md"], "cannot write"),
]

HELP = [[command, "--help"] for command in COMMANDS]


@pytest.fixture(scope="module")
def answers():
    """What the command line answers, in a process that has not imported the engine for something else."""
    commands = [
        [str(word) for word in command] for command in (*HELP, ["--version"], *(each for each, _ in WRONG))
    ]
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps([commands, ENGINE]),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    return dict(zip(map(tuple, commands), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_engine(answers, command):
    code, out, _, imported = answers[command, "--help"]
    assert code == 0 and f"lab {command}" in out and not imported


def test_the_version(answers):
    code, out, _, imported = answers[("--version",)]
    assert code == 0 and out.strip() == version("text-conditioning-lab") and not imported


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(map(str, each)) for each, _ in WRONG])
def test_what_is_wrong_is_told_without_the_engine(answers, arguments, said):
    code, out, lines, imported = answers[tuple(map(str, arguments))]
    assert code == 2 and not out and not imported
    assert len(lines) == 1 and lines[0].startswith("lab: ") and said in lines[0]


def test_commands_tables_and_options_are_read_without_the_engine():
    code = f"import sys, {', '.join(TABLES_AND_OPTIONS)}; print(*{{*{ENGINE}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "\n", done.stderr
