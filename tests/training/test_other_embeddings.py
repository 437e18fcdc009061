"""Embeddings that captions and prompts may name beside what is learned."""

import pytest
import torch

import lab
from lab.errors import InputError


@pytest.fixture
def ink():
    generator = torch.Generator().manual_seed(3)
    return lab.Embedding("ink", {"clip": 0.05 * torch.randn(2, 32, generator=generator)})


@pytest.fixture
def in_ink(changed, images):
    """A run whose captions name another embedding."""
    for path in images.glob("*.png"):
        path.with_suffix(".txt").write_text("a <cat-toy> in <ink>")
    return changed


def test_they_count_and_stay_as_they_are(sd1, in_ink, ink, tmp_path):
    before = ink.vectors["clip"].clone()
    inked = lab.train(sd1, in_ink(), embeddings=ink)
    plain = lab.train(sd1, in_ink(out=tmp_path / "plain"))
    assert torch.equal(ink.vectors["clip"], before)
    assert not torch.equal(inked.vectors["clip"], plain.vectors["clip"])


def test_files_and_folders_serve_as_well_and_a_run_goes_on_with_them(sd1, in_ink, ink, tmp_path):
    ink.save(tmp_path / "folder" / "ink.safetensors")
    whole = lab.train(sd1, in_ink(out=tmp_path / "whole"), embeddings=[tmp_path / "folder"])
    config = in_ink(stop="4", embeddings=[tmp_path / "folder" / "ink.safetensors"])
    lab.train(sd1, config)
    resumed = lab.train(sd1, resume=config.out, stop="never")
    assert torch.equal(resumed.vectors["clip"], whole.vectors["clip"])


def test_another_one_of_that_name_is_another_run(sd1, in_ink, ink):
    lab.train(sd1, in_ink(stop="4"), embeddings=ink)
    other = lab.Embedding("ink", {"clip": torch.ones(2, 32)})
    with pytest.raises(InputError, match="embedding ink changed"):
        lab.train(sd1, resume=in_ink().out, stop="never", embeddings=other)
    with pytest.raises(InputError, match=r"toy-0\.png changed|embedding ink is missing"):
        lab.train(sd1, resume=in_ink().out, stop="never")


def test_previews_may_name_them(sd1, changed, ink):
    config = changed(preview_every=6, preview_seeds="1", preview_steps=2, preview_prompt=["<cat-toy>, <ink>"])
    lab.train(sd1, config, embeddings=ink)
    record = lab.runs.png.read_record(config.out / "previews" / "000006-prompt1-seed1.png")
    assert [use["name"] for use in record["applied"]] == ["cat-toy", "ink"]


def test_what_cannot_serve_is_told_first(sd1, sdxl, in_ink, ink):
    with pytest.raises(InputError, match="name: 'cat-toy' is the name of an embedding"):
        lab.train(sd1, in_ink(), embeddings=lab.Embedding("cat-toy", ink.vectors))
    with pytest.raises(InputError, match="embedding ink is 32 wide"):
        lab.train(sdxl, in_ink(), embeddings=ink)
    assert not in_ink().out.exists()
