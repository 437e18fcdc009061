"""Embeddings on a hub on this machine, which answers by real HTTP."""

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

import lab
from lab.embeddings.library import collect
from lab.embeddings.read import read_one
from tests.embeddings.files import TOKEN, a1111, torch_file, vectors

PICKLE = {"learned_embeds.bin": torch_file({TOKEN: vectors(1)})}


def refused(source):
    with pytest.raises(lab.InputError) as raised:
        lab.read_embedding(source)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_diffusers_files_are_found_safetensors_first(hub):
    hub.put("someone/cat-toy", PICKLE | {"README.md": b"", "concept_images/1.png": b"x"})
    assert lab.read_embedding("hub:someone/cat-toy").count == 1
    hub.put("someone/cat-toy", PICKLE | {"learned_embeds.safetensors": save({TOKEN: vectors(2)})})
    embedding = lab.read_embedding("hub:someone/cat-toy")
    assert (embedding.name, embedding.count) == ("cat-toy", 2)
    assert not hub.asked("png")


@pytest.mark.parametrize("source", ["hub:someone/cat-toy", "hub:someone/cat-toy/learned_embeds.safetensors"])
def test_sdxl_s_second_half_comes_along(hub, source):
    first, second = save({TOKEN: vectors(2, 768)}), save({TOKEN: vectors(2, 1280)})
    hub.put("someone/cat-toy", {"learned_embeds.safetensors": first, "learned_embeds_2.safetensors": second})
    assert lab.read_embedding(source).widths == {"clip_l": 768, "clip_g": 1280}


def test_a_file_can_be_named(hub):
    hub.put("someone/cat-toy", {"files/bad.pt": torch_file({"emb_params": vectors(3)})})
    embedding = lab.read_embedding("hub:someone/cat-toy/files/bad.pt")
    assert embedding.name == "bad"
    assert torch.equal(embedding.vectors["clip_l"], vectors(3))
    assert lab.read_embedding("hub:someone/cat-toy/files/bad.pt", name="x").name == "x"


def test_the_negative_half_of_a_pair_comes_along(hub):
    files = {f"files/art{half}.pt": torch_file(a1111(vectors(3))) for half in ("", "-neg")}
    hub.put("someone/art", files)
    pair = lab.read_embedding("hub:someone/art/files/art.pt")
    assert [embedding.name for embedding in pair] == ["art", "art-neg"]
    assert read_one("hub:someone/art/files/art.pt").name == "art"


def test_cog_sdxl_s_name_for_safetensors(hub, tmp_path):
    data = save({"text_encoders_0": vectors(2, 768), "text_encoders_1": vectors(2, 1280)})
    hub.put("someone/tok", {"embeddings.pti": data})
    (tmp_path / "embeddings.pti").write_bytes(data)
    for source in ("hub:someone/tok", tmp_path):
        assert lab.read_embedding(source).widths == {"clip_l": 768, "clip_g": 1280}


def test_the_only_embedding_needs_no_name(hub):
    pickle = torch_file({"emb_params": vectors(1)})
    hub.put("someone/easy", {"Easy.safetensors": save({"emb_params": vectors(3)}), "Easy.pt": pickle})
    embedding = lab.read_embedding("hub:someone/easy")
    assert (embedding.name, embedding.count) == ("Easy", 3)


def test_several_have_to_be_named(hub):
    hub.put("someone/bad", {f"bad-{index}.pt": b"x" for index in range(5)})
    said = refused("hub:someone/bad")
    assert "several embeddings there; write hub:someone/bad/bad-0.pt or hub:someone/bad/bad-1.pt or" in said
    assert said.endswith("or another of 5")
    assert "no file bad-9.pt there; nearest: bad-" in refused("hub:someone/bad/bad-9.pt")


def test_what_is_no_embedding(hub, monkeypatch):
    hub.put("someone/model", {"model_index.json": b"{}", "unet/config.json": b"{}"})
    assert refused("hub:someone/model").endswith("this is a model, not an embedding; give it by --model")
    hub.put("someone/nothing", {"README.md": b"nothing"})
    assert "no embedding there; expected a file of .safetensors, .bin, .pt" in refused("hub:someone/nothing")
    hub.put("someone/large", {"model.safetensors": b"x" * 3_000_000})
    monkeypatch.setattr("lab.embeddings.read.MAX_FILE_BYTES", 2_000_000)
    assert refused("hub:someone/large/model.safetensors").endswith(
        "too large for an embedding; is it a model?"
    )
    assert not hub.asked("/resolve/")


def test_out_of_reach(hub, cut_off, monkeypatch):
    hub.put("someone/cat-toy", PICKLE)
    lab.read_embedding("hub:someone/cat-toy")
    cut_off()
    assert lab.read_embedding("hub:someone/cat-toy").count == 1
    assert refused("hub:someone/other").startswith("hub:someone/other: the hub is out of reach")
    assert "no file x.pt there" in refused("hub:someone/cat-toy/x.pt")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert lab.read_embedding("hub:someone/cat-toy").count == 1
    assert refused("hub:someone/other").startswith("hub:someone/other: HF_HUB_OFFLINE is set")


@pytest.mark.parametrize("source", ["hub:", "hub:someone", "hub:/x", "hub:someone/", "hub:some one/--x"])
def test_not_a_repository(source):
    assert "is not the name of a repository; write hub:org/name or hub:org/name/file" in refused(source)


def test_prompts_may_name_one(hub):
    hub.put("someone/cat-toy", PICKLE)
    assert list(collect(["hub:someone/cat-toy"])) == ["cat-toy"]
    assert list(collect(["hub:someone/cat-toy=x"])) == ["x"]
