import errno
import hashlib
import re
import zipfile

import pytest
import safetensors
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

import lab
from lab.cli.main import main
from lab.embeddings import write
from lab.embeddings.embedding import Embedding, Provenance, vectors_sha256
from lab.embeddings.layouts import LAYOUTS, WRITABLE, Draft, Layout
from tests.embeddings.files import vectors

TOLD = Provenance(
    internal_name="<trigger>",
    step=1200,
    base_model="some-model",
    metadata={"sd_checkpoint": "89d59c3dde", "modelspec.author": "somebody"},
)
ONE = Embedding("cat", {"clip_l": vectors(3, 768)}, "negative", TOLD)
TWO = Embedding("cat", {"clip_l": vectors(3, 768), "clip_g": vectors(3, 1280)}, "style", TOLD)

FILES = [
    (ONE, "diffusers", ".safetensors"),
    (ONE, "diffusers", ".bin"),
    (ONE, "kohya", ".safetensors"),
    (ONE, "kohya", ".pt"),
    (ONE, "a1111", ".pt"),
    (TWO, "sdxl", ".safetensors"),
    (TWO, "sdxl", ".pt"),
]


def same_vectors(one: Embedding, other: Embedding) -> bool:
    return one.vectors.keys() == other.vectors.keys() and all(
        torch.equal(one.vectors[key], other.vectors[key]) for key in one.vectors
    )


@pytest.mark.parametrize("embedding, layout, suffix", FILES)
class TestEveryLayout:
    def test_reads_back_the_same(self, tmp_path, embedding, layout, suffix):
        path = tmp_path / f"new{suffix}"
        embedding.save(path, layout=layout)
        found = lab.read_embedding(path)
        assert same_vectors(found, embedding)
        assert found.provenance.layout == layout
        assert found.name == "new"
        if suffix == ".safetensors":
            assert found.kind == embedding.kind
            assert found.provenance.step == 1200
            assert found.provenance.base_model == "some-model"
            assert found.provenance.internal_name == "<trigger>"
            assert found.provenance.metadata["modelspec.author"] == "somebody"

    def test_bytes_depend_on_nothing_but_the_embedding(self, tmp_path, embedding, layout, suffix):
        hashes = set()
        for name in ("a", "b"):
            embedding.save(tmp_path / f"{name}{suffix}", layout=layout)
            hashes.add(hashlib.sha256((tmp_path / f"{name}{suffix}").read_bytes()).hexdigest())
        assert len(hashes) == 1

    def test_saving_what_was_read_changes_nothing(self, tmp_path, embedding, layout, suffix):
        path = tmp_path / f"cat{suffix}"
        embedding.save(path, layout=layout)
        once = path.read_bytes()
        for _ in range(2):
            lab.read_embedding(path).save(path, layout=layout)
        assert path.read_bytes() == once or layout == "kohya"  # which has no place for a trigger in .pt
        assert same_vectors(lab.read_embedding(path), embedding)


class TestKeys:
    """The keys and shapes that other tools' readers look for."""

    def test_kohya(self, tmp_path):
        ONE.save(tmp_path / "x.safetensors", layout="kohya")
        assert load_file(tmp_path / "x.safetensors").keys() == {"emb_params"}
        with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
            metadata = file.metadata()
        assert metadata["modelspec.is_negative_embedding"] == "true"
        assert metadata["modelspec.trigger_phrase"] == "<trigger>"
        assert metadata["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
        assert metadata["ss_steps"] == "1200"

    @pytest.mark.parametrize("layout, suffix", [("a1111", ".pt"), ("kohya", ".pt"), ("diffusers", ".bin")])
    def test_the_web_uis_loader_lets_it_in(self, tmp_path, layout, suffix):
        """What modules/safe.py of A1111 1.5 to 1.10 allows in a zip, and of 1.0 to 1.4, which knew no `byteorder`."""
        ONE.save(tmp_path / f"x{suffix}", layout=layout)
        with zipfile.ZipFile(tmp_path / f"x{suffix}") as file:
            names = {name.partition("/")[2] for name in file.namelist()}
            used = set(re.findall(rb"c([\w.]+)\n([\w.]+)\n", file.read("archive/data.pkl")))
        assert names - {"version", "data.pkl"} == {"data/0"}
        assert used <= {
            (b"collections", b"OrderedDict"),
            (b"torch._utils", b"_rebuild_tensor_v2"),
            (b"torch", b"FloatStorage"),
        }

    def test_a1111(self, tmp_path):
        ONE.save(tmp_path / "x.pt", layout="a1111")
        data = torch.load(tmp_path / "x.pt", weights_only=True)
        # stable-diffusion-webui, create_embedding_from_data: one term, two axes
        assert list(data["string_to_param"]) == ["*"]
        assert torch.equal(data["string_to_param"]["*"], ONE.vectors["clip_l"])
        assert data["string_to_token"] == {"*": 265}
        assert (data["name"], data["step"]) == ("<trigger>", 1200)
        assert (data["sd_checkpoint"], data["sd_checkpoint_name"]) == ("89d59c3dde", "some-model")

    def test_sdxl(self, tmp_path):
        TWO.save(tmp_path / "x.safetensors")
        assert load_file(tmp_path / "x.safetensors").keys() == {"clip_l", "clip_g"}

    def test_diffusers_without_a_trigger(self, tmp_path):
        Embedding("cat", ONE.vectors).save(tmp_path / "x.bin")
        assert torch.load(tmp_path / "x.bin", weights_only=True).keys() == {"<cat>"}

    def test_metadata_can_be_added(self, tmp_path):
        ONE.save(tmp_path / "x.safetensors", metadata={"modelspec.license": "CC0"})
        assert (
            lab.read_embedding(tmp_path / "x.safetensors").provenance.metadata["modelspec.license"] == "CC0"
        )


class TestDiffusersReadsIt:
    @pytest.mark.parametrize(
        "layout, suffix",
        [("diffusers", ".safetensors"), ("diffusers", ".bin"), ("kohya", ".safetensors"), ("a1111", ".pt")],
    )
    def test_sd(self, tmp_path, sd1_folder, layout, suffix):
        pipe = StableDiffusionPipeline.from_pretrained(sd1_folder)
        embedding = Embedding("cat", {"clip": vectors(3, pipe.text_encoder.config.hidden_size)})
        embedding.save(tmp_path / f"x{suffix}", layout=layout)
        pipe.load_textual_inversion(str(tmp_path), weight_name=f"x{suffix}", token="<cat>")
        check_tokens(pipe.tokenizer, pipe.text_encoder, "<cat>", embedding.vectors["clip"])

    def test_sd_takes_our_token(self, tmp_path, sd1_folder):
        pipe = StableDiffusionPipeline.from_pretrained(sd1_folder)
        embedding = Embedding("cat", {"clip": vectors(2, pipe.text_encoder.config.hidden_size)})
        embedding.save(tmp_path / "x.safetensors")
        pipe.load_textual_inversion(str(tmp_path), weight_name="x.safetensors")
        check_tokens(pipe.tokenizer, pipe.text_encoder, "<cat>", embedding.vectors["clip"])

    def test_sdxl(self, tmp_path, sdxl_folder):
        pipe = StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
        encoders = {
            "clip_l": (pipe.tokenizer, pipe.text_encoder),
            "clip_g": (pipe.tokenizer_2, pipe.text_encoder_2),
        }
        widths = {key: encoder.config.hidden_size for key, (_, encoder) in encoders.items()}
        embedding = Embedding("cat", {key: vectors(3, width) for key, width in widths.items()})
        embedding.save(tmp_path / "x.safetensors")
        state = load_file(tmp_path / "x.safetensors")
        for key, (tokenizer, encoder) in encoders.items():
            pipe.load_textual_inversion(state[key], token="<cat>", tokenizer=tokenizer, text_encoder=encoder)
            check_tokens(tokenizer, encoder, "<cat>", embedding.vectors[key])


def check_tokens(tokenizer, encoder, token, tensor):
    names = [token] + [f"{token}_{number}" for number in range(1, len(tensor))]
    table = encoder.get_input_embeddings().weight
    assert torch.equal(table[tokenizer.convert_tokens_to_ids(names)], tensor)


class TestRefusals:
    @pytest.mark.parametrize("layout", ["diffusers", "kohya", "a1111"])
    def test_two_encoders_need_the_sdxl_layout(self, tmp_path, layout):
        self.refuse(tmp_path, TWO, "x.pt", layout, "take sdxl")

    def test_one_encoder_does_not_fit_the_sdxl_layout(self, tmp_path):
        self.refuse(tmp_path, ONE, "x.safetensors", "sdxl", "not clip_l; take diffusers")

    def test_a1111_is_a_pickle(self, tmp_path):
        self.refuse(tmp_path, ONE, "x.safetensors", "a1111", "is a .pt file")

    def test_unknown_suffix(self, tmp_path):
        self.refuse(tmp_path, ONE, "x.txt", "kohya", "ends in .safetensors, .pt or .bin")

    def test_unknown_layout(self, tmp_path):
        self.refuse(tmp_path, ONE, "x.pt", "a111", "nearest: a1111")

    def test_metadata_without_room(self, tmp_path):
        with pytest.raises(lab.InputError, match="no room for metadata"):
            ONE.save(tmp_path / "x.pt", "kohya", {"a": "b"})

    def test_broken_vectors(self, tmp_path):
        broken = Embedding("x", {"clip_l": torch.full((1, 768), torch.nan)})
        self.refuse(tmp_path, broken, "x.pt", "kohya", "NaN")

    def test_full_disk(self, tmp_path, monkeypatch):
        def full(*_arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("pathlib.Path.write_bytes", full)
        self.refuse(tmp_path, ONE, "x.safetensors", "diffusers", "disk is full")

    def test_what_does_not_read_back(self, tmp_path, monkeypatch):
        other = Embedding("x", {"clip_l": vectors(3, 768, seed=9)})
        monkeypatch.setattr(write, "read_file", lambda path: other)
        self.refuse(tmp_path, ONE, "x.safetensors", "diffusers", "does not read back the same")

    def test_an_existing_file_survives(self, tmp_path, monkeypatch):
        path = tmp_path / "x.safetensors"
        TWO.save(path)
        before = path.read_bytes()
        monkeypatch.setattr(write, "read_file", lambda path: ONE)
        with pytest.raises(lab.InputError):
            TWO.save(path)
        assert path.read_bytes() == before

    def refuse(self, tmp_path, embedding, name, layout, words):
        with pytest.raises(lab.InputError, match=words):
            embedding.save(tmp_path / name, layout=layout)
        assert list(tmp_path.iterdir()) == []


def test_the_hash_of_vectors_is_of_their_bytes():
    clip_l, clip_g = vectors(2, 768), vectors(2, 1280)
    expected = hashlib.sha256(clip_g.numpy().tobytes() + clip_l.numpy().tobytes()).hexdigest()
    assert vectors_sha256({"clip_l": clip_l, "clip_g": clip_g}) == expected


def test_a_layout_added_while_the_program_runs_is_written_read_and_offered(tmp_path, monkeypatch, capsys):
    def read(contents):
        data = contents.data
        if not isinstance(data, dict) or data.keys() != {"mine"}:
            return None
        return Draft({"clip_l": data["mine"]}, internal_name="my own")

    layout = Layout("mine", read, lambda _, vectors: {"mine": vectors["clip_l"]}, (".safetensors",))
    monkeypatch.setitem(LAYOUTS, "mine", layout)
    path = tmp_path / "x.safetensors"
    ONE.save(path)
    assert main(["convert", str(path), str(tmp_path / "y.safetensors"), "--layout", "mine"]) == 0
    found = lab.read_embedding(tmp_path / "y.safetensors")
    assert same_vectors(found, ONE) and found.provenance.layout == "mine"
    assert "mine" in WRITABLE and "bundle" not in WRITABLE and len(WRITABLE) == 7
    with pytest.raises(lab.InputError, match=r"the mine layout is a \.safetensors file"):
        ONE.save(tmp_path / "y.pt", layout="mine")
    assert main(["convert", str(path), str(tmp_path / "z.pt"), "--layout", "khoya"]) == 2
    assert "unknown layout 'khoya'; nearest: kohya" in capsys.readouterr().err
