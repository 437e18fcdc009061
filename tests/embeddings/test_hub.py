import pytest
import torch
from safetensors.torch import save_file

import lab
from tests.embeddings.files import TOKEN, torch_file, vectors


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository's folder in a local cache of the hub, which is out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root = tmp_path / "models--someone--cat-toy"
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    return snapshot


def test_diffusers_files_are_found_safetensors_first(repository):
    (repository / "learned_embeds.bin").write_bytes(torch_file({TOKEN: vectors(1)}))
    assert lab.read_embedding("hub:someone/cat-toy").count == 1
    save_file({TOKEN: vectors(2)}, repository / "learned_embeds.safetensors")
    embedding = lab.read_embedding("hub:someone/cat-toy")
    assert (embedding.name, embedding.count) == ("cat-toy", 2)


def test_sdxl_s_second_half_comes_along(repository):
    save_file({TOKEN: vectors(2, 768)}, repository / "learned_embeds.safetensors")
    save_file({TOKEN: vectors(2, 1280)}, repository / "learned_embeds_2.safetensors")
    assert lab.read_embedding("hub:someone/cat-toy").widths == {"clip_l": 768, "clip_g": 1280}


def test_a_file_can_be_named(repository):
    (repository / "files").mkdir()
    (repository / "files" / "bad.pt").write_bytes(torch_file({"emb_params": vectors(3)}))
    embedding = lab.read_embedding("hub:someone/cat-toy/files/bad.pt")
    assert embedding.name == "bad"
    assert torch.equal(embedding.vectors["clip_l"], vectors(3))
    assert lab.read_embedding("hub:someone/cat-toy/files/bad.pt", name="x").name == "x"


@pytest.mark.parametrize("source", ["hub:someone/other", "hub:someone/cat-toy", "hub:someone/cat-toy/x.pt"])
def test_out_of_reach(repository, source):
    with pytest.raises(
        lab.InputError, match=f"^{source}: not in the local cache, and the hub is out of reach"
    ):
        lab.read_embedding(source)


@pytest.mark.parametrize("source", ["hub:", "hub:someone", "hub:/x", "hub:someone/"])
def test_not_a_repository(source):
    with pytest.raises(lab.InputError, match="expected hub:org/name"):
        lab.read_embedding(source)


def test_not_a_repository_s_name(repository):
    with pytest.raises(lab.InputError, match="is not the name of a repository"):
        lab.read_embedding("hub:some one/--x")
