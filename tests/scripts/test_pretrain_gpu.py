"""What travels to a machine with a GPU and back; and all stages in one go there, tiny and on the CPU."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from scripts.pretrain import cargo
from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.common import ROOT, merged, write_json
from scripts.pretrain.on_gpu import Session, times_of
from scripts.pretrain.tokenizer import learn, write

NAMES = ["cat", "dog", "owl", "bee"]
TEXT = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
TINY = {
    "data": {"per_drawing": 4, "per_extra": 1, "per_held_out": 12, "side_by_side": 8, "size": 128},
    "clip": {
        "projection": 16,
        "text": TEXT,
        "batch": 8,
        "captions": 2,
    },
    "vision": {
        "projection": 16,
        "text": TEXT,
        "vision": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
        },
        "batch": 8,
    },
    "vae": {"widths": [4, 4, 4, 8], "batch": 8, "warm_start": None},
    "decoder": {"widths": [4, 4, 4, 8], "batch": 8},
    "unet": {"widths": [16, 16, 16], "heads": [1, 1, 1], "batch": 4},
    "judge": {"batch": 8},
}
PLAN = {
    "reserve": 0.02,
    "order": ["clip", "vae", "decoder", "vision", "judge", "quality"],
    "minutes": dict.fromkeys(["clip", "vae", "decoder", "vision", "judge", "quality", "unet"], 0.01),
    "stages": {"quality": {"quality": {"batch": 8}, "judge_quality": {"batch": 8}}},
}


def drawn(number: int) -> torch.Tensor:
    """A square of its own colour on nothing."""
    icon = torch.zeros(4, 112, 112, dtype=torch.uint8)
    icon[:, 20:90, 30:80] = torch.tensor([40 * (number % 5), 200 - 30 * (number % 6), 90, 255]).view(4, 1, 1)
    return icon


def icons() -> dict[tuple[str, str], torch.Tensor]:
    return {(s, n): drawn(3 * i + j) for i, n in enumerate([*NAMES, "ant"]) for j, s in enumerate(STYLES)}


@pytest.fixture
def project(tmp_path) -> Path:
    """The scripts with tiny settings, and cargo as it would come along the first time."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "configs" / "pretrain", tmp_path / "configs" / "pretrain")
    for stage, changes in TINY.items():
        path = tmp_path / "configs" / "pretrain" / f"{stage}.yaml"
        path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), changes)))
    (tmp_path / "configs" / "pretrain" / "on_gpu.yaml").write_text(yaml.safe_dump(PLAN))
    work = tmp_path / "packed"
    vocabulary, merges = learn(iter([*NAMES, *STYLES, "emoji of background a"]), 700)
    write(vocabulary, merges, work / "tokenizer")
    split = {"train": NAMES, "objects": ["ant"], "pairs": [["cat", "noto"]]}
    write_json(work / "split.json", split | {"words": {"cat": {"pet": 1.0}}})
    cargo.pack(work, tmp_path / "cargo")
    cargo.write_icons(icons(), tmp_path / "cargo" / cargo.ICONS)
    return tmp_path


def go(project: Path, out: str, cargo_folder: str) -> str:
    command = [sys.executable, "-m", "scripts.pretrain.on_gpu", "--device", "cpu", "--minutes", "9"]
    found = subprocess.run(
        [*command, "--cargo", cargo_folder, "--out", out], cwd=project, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr, found.stderr
    return found.stdout


def test_all_stages_run_and_what_comes_back_is_gone_on_from(project):
    assert "--- vae" in go(project, "out", "cargo")
    back, home = project / "out", project / "home"
    assert len(list(back.iterdir())) <= 8
    cargo.unpack(back, home)
    for name in cargo.WEIGHTS:
        assert (home / name).exists(), name
    shutil.copy(project / "cargo" / cargo.ICONS, back / cargo.ICONS)
    shutil.rmtree(project / "outputs")
    said = go(project, "again", "out")
    assert "--- unet" in said
    assert said.count("---") == 1  # what it learnt from stays


def test_icons_come_back_as_they_were(tmp_path):
    cargo.write_icons(icons(), tmp_path / "icons.zip")
    read = cargo.read_icons(tmp_path / "icons.zip")
    assert read.keys() == icons().keys()
    assert all(torch.equal(read[key], pixels) for key, pixels in icons().items())


def test_weights_come_back_complete_in_parts_of_a_limited_size(tmp_path):
    state = {f"layer{i}.weight": torch.full((100, 100), float(i)) for i in range(20)}
    (tmp_path / "unet" / "average").mkdir(parents=True)
    save_file(state, tmp_path / "unet" / "average" / "diffusion_pytorch_model.safetensors")
    tensors = cargo.read_weights(tmp_path)
    parts = cargo.in_parts(tensors, 100_000)
    assert all(sum(v.nbytes for v in part.values()) <= 100_000 for part in parts)
    assert {name for part in parts for name in part} == set(tensors)
    cargo.write_weights(tensors, tmp_path / "home")
    back = cargo.read_weights(tmp_path / "home")
    assert all(torch.equal(back[name], value) for name, value in tensors.items())


@pytest.fixture
def session(tmp_path, monkeypatch) -> Session:
    monkeypatch.setattr("scripts.pretrain.on_gpu.WORK", tmp_path)
    plan = {"reserve": 0, "minutes": {"judge": 1}, "stages": {"judge": {"batch": 8}}}
    found = Session(plan, "cpu", tmp_path / "out", time.monotonic() + 60)
    found.data = None
    return found


def test_a_stage_out_of_memory_begins_again_with_half_the_batch(session):
    batches = []

    def learn(config, data, device, minutes):
        batches.append(config["batch"])
        if config["batch"] > 2:
            raise torch.OutOfMemoryError

    assert session.attempt("judge", learn)
    assert batches == [8, 4, 2]


def test_a_stage_that_fails_is_told_and_passed(session, capsys):
    assert not session.attempt("judge", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_stage_without_time_is_left_out(session):
    session.ends = time.monotonic()
    assert not session.attempt("judge", lambda *_: pytest.fail("it ran"))


def test_a_stage_runs_its_steps_in_the_fastest_way_and_plainly_where_that_fails(session):
    session.plan["minutes"]["unet"] = 1
    session.rehearsals["unet"] = subprocess.Popen(["true"])
    write_json(times_of("unet"), {"plain": 9.0, "recorded": 2.0, "compiled": 5.0})
    ways = []

    def learn(config, data, device, minutes):
        ways.append((config["recorded"], config["compile"]))
        assert not config["recorded"]

    assert session.attempt("unet", learn)
    assert ways == [(True, False), (False, False)]
