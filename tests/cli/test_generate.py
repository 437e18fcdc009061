"""`lab generate` and `lab rerun` as a person uses them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lab
from lab.runs.png import read_parameters, read_record
from lab.sample.config import GenerateConfig, config_from_record
from tests.paths import REPOSITORY


def images(folder):
    return sorted(path for path in folder.glob("*.png") if not path.name.startswith("contact-sheet"))


def test_images_records_sheet_and_config(cli, sd1_folder, tmp_path):
    out = tmp_path / "run"
    code, said, _ = cli(
        "generate", "--model", sd1_folder, "--prompt", "a cat", "--prompt", "a dog", "--seeds", "3,7",
        "--steps", 2, "--out", out,
    )  # fmt: skip
    assert code == 0 and "4 images" in said
    assert [path.name for path in images(out)] == [
        "00000-seed3-a-cat.png",
        "00001-seed7-a-cat.png",
        "00002-seed3-a-dog.png",
        "00003-seed7-a-dog.png",
    ]
    record = json.loads((out / "00002-seed3-a-dog.json").read_text())
    assert (record["seed"], record["prompt"], record["steps"]) == (3, "a dog", 2)
    assert (out / "contact-sheet.png").is_file()
    stored = GenerateConfig.read(out / "config.yaml")
    assert stored.prompt == ["a cat", "a dog"] and stored.steps == 2
    assert cli("generate", "--config", out / "config.yaml", "--out", tmp_path / "again")[0] == 0
    assert [path.name for path in images(tmp_path / "again")] == [path.name for path in images(out)]


def test_flags_go_on_top_of_the_config_file(cli, sd1_folder, tmp_path):
    (tmp_path / "x.yaml").write_text(
        yaml.safe_dump({"model": str(sd1_folder), "prompt": "a cat", "steps": 9})
    )
    code, *_ = cli("generate", "--config", tmp_path / "x.yaml", "--steps", 2, "--out", tmp_path / "run")
    assert code == 0
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("*.json")]
    assert (record["prompt"], record["steps"]) == ("a cat", 2)


def test_an_interrupted_run_goes_on_and_says_so(cli, sd1_folder, tmp_path):
    command = (
        "generate",
        "--model",
        sd1_folder,
        "--prompt",
        "a cat",
        "--seeds",
        "1-4",
        "--steps",
        2,
        "--out",
        tmp_path,
    )
    assert cli(*command)[0] == 0
    kept, lost = images(tmp_path)[:2], images(tmp_path)[2:]
    before = {path: path.stat().st_mtime_ns for path in kept}
    pixels = [np.asarray(Image.open(path)) for path in lost]
    for path in lost:
        path.unlink()
    code, _, said = cli(*command)
    assert code == 0 and "2 images there already" in said
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    for path, array in zip(lost, pixels, strict=True):
        assert np.abs(np.asarray(Image.open(path), dtype=int) - array).max() <= 1


def test_other_settings_in_the_same_folder_are_refused(cli, sd1_folder, tmp_path):
    command = ("generate", "--model", sd1_folder, "--prompt", "a cat", "--out", tmp_path)
    assert cli(*command, "--steps", 2)[0] == 0
    code, _, said = cli(*command, "--steps", 3)
    assert code == 2 and "(steps)" in said and len(images(tmp_path)) == 1


def test_rerun_makes_the_same_image(cli, sd1_folder, tmp_path):
    out = tmp_path / "run"
    cli(
        "generate", "--model", sd1_folder, "--prompt", "a (red:1.3) [cat:dog:1] AND apple", "--negative-prompt",
        "blurry", "--seeds", "1-3", "--steps", 3, "--scheduler", "euler-a", "--clip-skip", 1, "--out", out,
    )  # fmt: skip
    image = images(out)[1]
    assert config_from_record(read_record(image)).dtype == "float32"  # what `auto` was, and not `auto`
    code, said, _ = cli("rerun", image)
    assert code == 0 and "the same" in said
    again = image.with_stem(f"{image.stem}-again")
    first, second = (np.asarray(Image.open(path), dtype=int) for path in (image, again))
    assert np.abs(first - second).max() <= 1


def test_rerun_finds_what_was_named_from_another_folder(cli, sd1_folder, tmp_path, monkeypatch):
    lab.Embedding("x", {"clip": torch.full((2, 32), 0.1)}).save(tmp_path / "cat-toy.safetensors")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "first.png")
    (tmp_path / "model").symlink_to(sd1_folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert (
        cli(
            "generate", "--model", "model", "--prompt", "a <toy>", "--embedding", "cat-toy.safetensors=toy",
            "--init-image", "first.png", "--strength", 0.5, "--steps", 2, "--out", "run",
        )[0]
        == 0
    )  # fmt: skip
    (image,) = images(tmp_path / "run")
    assert read_parameters(Image.open(image).info["parameters"])["Model"] == "model", "whatever its folder"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, said, problem = cli("rerun", image)
    assert code == 0 and "the same" in said, problem


def test_rerun_finds_embeddings_that_moved_by_their_hashes(cli, sd1_folder, tmp_path):
    file, moved, out = tmp_path / "cat-toy.safetensors", tmp_path / "elsewhere", tmp_path / "run"
    moved.mkdir()
    for number, path in enumerate((moved / "other.safetensors", file)):
        lab.Embedding("x", {"clip": torch.full((2, 32), 0.1 + number)}).save(path)
    command = (
        "generate",
        "--model",
        sd1_folder,
        "--prompt",
        "a <cat-toy>",
        "--steps",
        2,
        "--embedding",
        file,
    )
    assert cli(*command, "--out", out)[0] == 0
    (image,) = images(out)
    digest = lab.read_embedding(file).provenance.sha256
    hashes = read_parameters(Image.open(image).info["parameters"])["Hashes"]
    assert json.loads(hashes)["embed:cat-toy"] == digest[:10]
    file.rename(moved / "renamed.safetensors")
    assert cli("rerun", image)[0] == 2
    code, said, _ = cli("rerun", image, "--embeddings", moved)
    assert code == 0 and "the same" in said
    (moved / "renamed.safetensors").unlink()
    code, _, said = cli("rerun", image, "--embeddings", moved)
    assert code == 2 and f"none has the hash {digest[:12]}" in said


@pytest.mark.parametrize("dialect", ["a1111", "comfy", "compel", "plain"])
def test_rerun_of_every_dialect(cli, sd1_folder, tmp_path, dialect):
    command = ("generate", "--model", sd1_folder, "--prompt", "a (red) cat", "--dialect", dialect)
    assert cli(*command, "--steps", 2, "--out", tmp_path)[0] == 0
    (image,) = images(tmp_path)
    code, said, err = cli("rerun", image)
    assert code == 0 and "the same" in said, err


def test_images_of_the_plain_dialect_that_were_made_before_are_made_again_too(sd1):
    record = lab.generate(sd1, prompt="a cat", dialect="plain", steps=2)[0].record
    assert record["weighting"] == "ignore"
    assert config_from_record(record | {"weighting": "plain"}).dialect == "plain"
    assert config_from_record(record | {"weighting": ["plain"]}).dialect == "plain"


def test_after_a_rerun_a_lost_image_is_made_again(cli, sd1_folder, tmp_path):
    command = ("generate", "--model", sd1_folder, "--prompt", "a cat", "--seeds", "1-2", "--steps", 2)
    assert cli(*command, "--out", tmp_path)[0] == 0
    kept, lost = images(tmp_path)
    assert cli("rerun", lost)[0] == 0
    lost.unlink()
    code, said, _ = cli(*command, "--out", tmp_path)
    assert code == 0 and "2 images" in said and lost.is_file() and kept.is_file()


def test_prompt_embeddings_from_a_file_stand_for_the_prompt(cli, sd1_folder, tmp_path):
    prompt = "a (red:1.3) [cat:dog:2], AND an apple"
    file = tmp_path / "x.safetensors"
    assert cli("encode", prompt, "--model", sd1_folder, "--steps", 4, "--out", file)[0] == 0
    command = ("generate", "--model", sd1_folder, "--negative-prompt", "blurry", "--steps", 4)
    assert cli(*command, "--prompt", prompt, "--out", tmp_path / "text")[0] == 0
    assert cli(*command, "--embeds", file, "--out", tmp_path / "file")[0] == 0
    (first,), (second,) = images(tmp_path / "text"), images(tmp_path / "file")
    assert np.abs(np.asarray(Image.open(first), dtype=int) - np.asarray(Image.open(second))).max() <= 1
    code, said, _ = cli("rerun", second)
    assert code == 0 and "the same" in said
    code, _, err = cli(*command, "--embeds", file, "--prompt", "a cat", "--out", tmp_path / "both")
    assert code == 2 and "not both" in err


def test_image_to_image(cli, sd1_folder, tmp_path):
    Image.new("RGB", (50, 40), "orange").save(tmp_path / "start.png")
    command = (
        "generate",
        "--model",
        sd1_folder,
        "--prompt",
        "a cat",
        "--steps",
        4,
        "--init-image",
        tmp_path / "start.png",
    )
    code, *_ = cli(*command, "--strength", 0.5, "--out", tmp_path / "half")
    assert code == 0
    code, said, _ = cli("rerun", *images(tmp_path / "half"))
    assert code == 0 and "the same" in said
    code, _, said = cli(*command, "--strength", 0.1, "--out", tmp_path / "none")
    assert code == 2 and "runs none" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "a", "--width", 30], ["width", "multiple", "32"]),
        (["--prompt", "a", "--steps", 0], ["steps", "greater than or equal to 1"]),
        (["--prompt", "a", "--seeds", "4-1"], ["seeds", "backwards"]),
        (["--prompt", "a", "--scheduler", "eulr"], ["eulr", "nearest: euler"]),
        (["--prompt", "a", "--scheduler", "ddim", "--karras"], ["Karras", "euler"]),
        (["--prompt", "a", "--original-width", 64], ["only SDXL"]),
        (["--prompt", "a", "--strength", 0.5], ["--init-image"]),
        (["--prompt", "a", "--init-image", "absent.png"], ["absent.png", "no such file"]),
        (["--prompt", "a", "--scheduler", "lcm", "--steps", 500], ["lcm", "500"]),
        (["--prompt-file", "absent.txt"], ["absent.txt", "no such file"]),
        (["--prompt", "a", "--config", "absent.yaml"], ["absent.yaml", "cannot read"]),
        (["--prompt", "a", "--stpes", 3], ["--stpes", "--steps"]),
        ([], ["no", "prompt", "--prompt-file"]),
        (["--prompt", "a", "--guidance-interval", 2, 1], ["LOW before HIGH"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(cli, sd1_folder, tmp_path, arguments, words):
    code, out, err = cli("generate", "--model", sd1_folder, "--out", tmp_path / "run", *arguments)
    assert code == 2 and out == ""
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    for word in words:
        assert word in err
    assert not images(tmp_path / "run")


@pytest.mark.parametrize(("scheduler", "reason"), [("pndm", "rescale"), ("heun", "rescale")])
def test_schedulers_that_cannot_start_from_pure_noise_are_refused(cli, tmp_path, scheduler, reason):
    code, _, err = cli("generate", "--prompt", "a", "--scheduler", scheduler, "--out", tmp_path / "run")
    assert code == 2 and reason in err and "dpm++2m" in err


def test_karras_sigmas_at_zero_snr_are_refused(cli, tmp_path):
    code, _, err = cli(
        "generate", "--prompt", "a", "--scheduler", "euler", "--karras", "--out", tmp_path / "run"
    )
    assert code == 2 and "zero terminal SNR" in err


def test_an_empty_prompt_file_is_one_line(cli, sd1_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n# nothing\n\n")
    code, _, err = cli("generate", "--model", sd1_folder, "--prompt-file", tmp_path / "prompts.txt")
    assert code == 2 and "holds no prompt" in err


def test_a_prompt_file_has_one_prompt_a_line(cli, sd1_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("# animals\na cat\n\n  a dog  \n")
    out = tmp_path / "run"
    code, *_ = cli(
        "generate",
        "--model",
        sd1_folder,
        "--prompt-file",
        tmp_path / "prompts.txt",
        "--steps",
        1,
        "--out",
        out,
    )
    assert code == 0 and [path.name for path in images(out)] == [
        "00000-seed1-a-cat.png",
        "00001-seed1-a-dog.png",
    ]


def test_ctrl_c_keeps_what_is_finished_and_exits_130(sd1_folder, tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "lab", "generate", "--model", sd1_folder, "--prompt", "a cat", "--seeds", "1-5000",
        "--steps", "20", "--batch-size", "1", "--out", out,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    # A shell that runs this in the background has its children ignore Ctrl-C; a person's terminal does not.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while len(images(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    finished = images(out)
    assert finished and {path.name for path in out.glob(".*")} == {".lock"}
    for path in finished:
        Image.open(path).load()
