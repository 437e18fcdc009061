"""Models on a hub on this machine, which answers by real HTTP."""

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from lab.errors import InputError
from lab.models.describe import describe
from lab.models.folder import read_vae
from lab.models.load import load
from lab.models.source import locate_part
from tests.embeddings.files import TOKEN, torch_file, vectors
from tests.hub_server import Heard
from tests.ldm import write_checkpoint


@pytest.fixture
def stored(hub, sd1_folder):
    """The hub with a small model, beside things that the lab has no use for."""
    paths = [path for path in sd1_folder.rglob("*") if path.is_file()]
    files = {path.relative_to(sd1_folder).as_posix(): path.read_bytes() for path in paths}
    unused = [
        "v1-5.ckpt",
        "v1-5.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
    ]
    hub.put("org/name", files | dict.fromkeys(unused, b"unused"))
    return hub


def refused(source, **options):
    with pytest.raises(InputError) as raised:
        load(source, device="cpu", **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_model_is_the_one_in_the_folder(stored, sd1):
    heard = Heard()
    bundle = load("hub:org/name", device="cpu", listener=heard)
    assert torch.equal(bundle.unet.conv_in.weight, sd1.unet.conv_in.weight)
    assert (bundle.hash, bundle.source) == (sd1.hash, "hub:org/name")
    done, total, things = heard.bars[-1]
    assert done == total and things == "MB of org/name"


def test_one_set_of_safetensors_and_no_pickles_are_fetched(stored, sd1_folder):
    files = {path.relative_to(sd1_folder).as_posix(): path.read_bytes() for path in sd1_folder.rglob("*.*")}
    for name in list(files):
        if name.endswith(".safetensors") and not name.startswith("vae"):
            files[name.replace(".safetensors", ".fp16.safetensors")] = files[name]
    stored.put("org/both", files)
    root = load("hub:org/both", device="cpu", variant="fp16").root
    weights = {path.relative_to(root).as_posix() for path in root.rglob("*.safetensors")}
    assert weights == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16.safetensors",
    }
    load("hub:org/name", device="cpu")
    assert not stored.asked("ckpt") and not stored.asked(".bin") and not stored.asked("safety_checker")


def test_a_cached_model_loads_while_the_hub_is_out_of_reach(stored, sd1, cut_off, monkeypatch):
    load("hub:org/name", device="cpu")
    cut_off()
    heard = Heard()
    assert load("hub:org/name", device="cpu", listener=heard).hash == sd1.hash
    assert heard.notes[0].endswith("taken from the local cache") and len(heard.notes) == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("hub:org/name", device="cpu").hash == sd1.hash


def test_half_a_model_in_the_cache_is_told_by_name(stored, cut_off):
    stored.breaks = [50_000, 0, 0, 0]
    assert "org/name: unet/diffusion_pytorch_model.safetensors: the connection broke off" in refused(
        "hub:org/name"
    )
    cut_off()
    said = refused("hub:org/name")
    assert "and the local cache lacks unet/diffusion_pytorch_model.safetensors, text_encoder/" in said


def test_half_a_model_that_another_program_fetched_is_told_by_name(stored, cut_off):
    root = load("hub:org/name", device="cpu").root
    (root / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    for listing in root.parents[1].glob("trees/*"):
        listing.unlink()
    cut_off()
    said = refused("hub:org/name")
    assert said.startswith(
        "hub:org/name: a Stable Diffusion 1.x folder without vae/*.safetensors; the hub is out of reach"
    )


def test_revisions(stored, sd1, sd2_folder):
    stored.put("org/name", sd2_folder, "v2")
    assert load("hub:org/name", device="cpu", revision="v2").facts.family == "sd2"
    assert load("hub:org/name", device="cpu").family == "sd1"
    assert describe("hub:org/name", revision="v2").facts.family == "sd2"


def test_a_single_file(stored, sd1, tmp_path):
    file = write_checkpoint(sd1, tmp_path / "whole.safetensors")
    stored.put("org/file", {"models/whole.safetensors": file.read_bytes()})
    bundle = load("hub:org/file/models/whole.safetensors", device="cpu", config_folder=sd1.root)
    assert torch.equal(bundle.unet.conv_in.weight, sd1.unet.conv_in.weight)


class TestNoModel:
    def test_pickles_only(self, stored, sd1_folder):
        paths = [path for path in sd1_folder.rglob("*") if path.suffix in (".json", ".txt")]
        files = {path.relative_to(sd1_folder).as_posix(): path.read_bytes() for path in paths}
        pickles = (
            "unet/diffusion_pytorch_model",
            "vae/diffusion_pytorch_model",
            "text_encoder/pytorch_model",
        )
        stored.put("org/pickles", files | {f"{name}.bin": b"x" * 2_000_000 for name in pickles})
        said = refused("hub:org/pickles")
        assert "without unet/*.safetensors, text_encoder/*.safetensors, vae/*.safetensors" in said
        assert "pickled checkpoints can run code" in said and "safe_serialization=True" in said
        assert said.startswith("hub:org/pickles: ")
        stored.put("org/ckpt", {"v1.ckpt": b"x" * 2_000_000})
        assert "hub:org/ckpt: no model as a diffusers folder; pickled checkpoints" in refused("hub:org/ckpt")
        assert "pickled checkpoints" in refused("hub:org/ckpt/v1.ckpt")
        assert not stored.asked("/org/ckpt/resolve/")

    def test_another_family_is_told_before_its_weights_are_fetched(self, stored):
        index = b'{"_class_name": "FluxPipeline"}'
        stored.put("org/flux", {"model_index.json": index, "transformer/x.safetensors": b"x" * 2000})
        said = refused("hub:org/flux")
        assert said.startswith("hub:org/flux: has no unet/config.json") and "this is a FluxPipeline" in said
        assert not stored.asked("x.safetensors")

    def test_an_embedding(self, stored):
        stored.put("org/cat", {"learned_embeds.bin": torch_file({TOKEN: vectors(1)})})
        assert "this looks like an embedding: give it by --embedding hub:org/cat" in refused("hub:org/cat")

    def test_single_files(self, stored):
        large = b"x" * 2_000_000
        stored.put("org/files", {"b.safetensors": large, "a.safetensors": large, "c.ckpt": large})
        said = refused("hub:org/files")
        assert "write hub:org/files/a.safetensors or hub:org/files/b.safetensors" in said
        assert "nearest: a.safetensors" in refused("hub:org/files/a.safetensor")

    def test_a_lora(self, stored):
        stored.put("org/lora", {"pytorch_lora_weights.safetensors": b"x" * 3_000_000})
        assert "this is a LoRA" in refused("hub:org/lora")

    @pytest.mark.parametrize("source", ["hub:", "hub:name", "hub:some one/x", "hub:org/a--b"])
    def test_not_a_repository_s_name(self, source):
        assert "is not the name of a repository; write hub:org/name" in refused(source)


def test_a_vae(stored, sd1, tmp_path):
    files = {path.name: path.read_bytes() for path in (sd1.root / "vae").iterdir()}
    stored.put("org/vae", files)
    weights = load_file(sd1.root / "vae" / "diffusion_pytorch_model.safetensors")
    for source in ("hub:org/vae", "hub:org/name"):
        vae, _ = read_vae(locate_part(source, "vae"), sd1.vae)
        assert torch.equal(vae.state_dict()["encoder.conv_in.weight"], weights["encoder.conv_in.weight"])
    assert not stored.asked("/unet/")
    half = {name.replace("model.safetensors", "model.fp16.safetensors"): data for name, data in files.items()}
    stored.put("org/half", {f"vae/{name}": data for name, data in half.items()} | {"vae.ckpt": b"x" * 3000})
    for source in ("hub:org/half", "hub:org/half/vae"):
        assert (load("hub:org/name", device="cpu", vae=source).hash) == sd1.hash
    assert "pickled checkpoints can run code" in refused("hub:org/name", vae="hub:org/half/vae.ckpt")
    assert not stored.asked("vae.ckpt")
    with pytest.raises(InputError, match="no VAE in safetensors there; the lab loads"):
        stored.put("org/no", {"README.md": b"nothing"})
        locate_part("hub:org/no", "vae")
