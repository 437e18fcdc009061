import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors
from safetensors.torch import save_file

import lab
from lab.embeddings.embedding import Embedding
from tests.embeddings.files import LAYOUTS, TOKEN, a1111, pixel_image, torch_file, vectors
from tests.paths import PUBLISHED_EMBEDDINGS, needs_published_embeddings

pytestmark = pytest.mark.filterwarnings("error")  # reading talks to nobody


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("width, key", [(768, "clip_l"), (1024, "clip_h"), (1280, "clip_g"), (32, "clip")])
def test_every_layout_gives_the_same_vectors_whatever_the_file_is_called(tmp_path, name, width, key):
    layout, make = LAYOUTS[name]
    tensor = vectors(2, width)
    path = write(tmp_path / "cat.data", make(tensor))
    embedding = lab.read_embedding(path)
    assert embedding.provenance.layout == layout
    assert embedding.name == "cat"
    assert embedding.kind == "unknown"
    assert embedding.provenance.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert embedding.vectors.keys() == {key}
    assert embedding.vectors[key].dtype == torch.float32
    assert not embedding.vectors[key].requires_grad
    assert torch.equal(embedding.vectors[key], tensor)


@pytest.mark.parametrize("name", [name for name, (layout, _) in LAYOUTS.items() if layout == "a1111"])
def test_a1111_files_say_name_step_and_model(tmp_path, name):
    path = write(tmp_path / "renamed.pt", LAYOUTS[name][1](vectors()))
    embedding = lab.read_embedding(path)
    assert embedding.name == "renamed"
    assert embedding.provenance.internal_name == "internal"
    assert embedding.provenance.step == 1419
    assert embedding.provenance.base_model == "some-model"
    assert embedding.provenance.metadata == {"sd_checkpoint": "89d59c3dde"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", [save_safetensors, torch_file])
def test_any_floating_point_type_becomes_float32(tmp_path, dtype, make):
    tensor = vectors().to(dtype)
    embedding = lab.read_embedding(write(tmp_path / "x.bin", make({TOKEN: tensor})))
    assert torch.equal(embedding.vectors["clip_l"], tensor.float())


def test_a_single_vector_may_have_no_row_axis(tmp_path):
    embedding = lab.read_embedding(write(tmp_path / "x.bin", torch_file({TOKEN: vectors()[0]})))
    assert embedding.vectors["clip_l"].shape == (1, 768)


def test_a_name_can_be_given(tmp_path):
    path = write(tmp_path / "x.bin", torch_file({TOKEN: vectors()}))
    assert lab.read_embedding(str(path), name="cat").name == "cat"


def test_rows_of_a_list_follow_one_another_for_each_encoder(tmp_path):
    clip_l, clip_g = vectors(3, 768), vectors(3, 1280)
    data = [{"<a>": clip_l[:1]}, {"<b>": clip_g[:2]}, {"<c>": clip_l[1:], "<d>": clip_g[2]}]
    embedding = lab.read_embedding(write(tmp_path / "x.pt", torch_file(data)))
    assert torch.equal(embedding.vectors["clip_l"], clip_l)
    assert torch.equal(embedding.vectors["clip_g"], clip_g)


class TestSdxl:
    def test_both_encoders_in_one_file(self, tmp_path):
        tensors = {"clip_l": vectors(3, 768), "clip_g": vectors(3, 1280)}
        embedding = lab.read_embedding(write(tmp_path / "x.safetensors", save_safetensors(tensors)))
        assert same(embedding, tensors)
        assert embedding.provenance.layout == "sdxl"

    def test_the_file_names_the_encoders_even_where_the_widths_do_not(self, tmp_path):
        tensors = {"clip_l": vectors(3, 32), "clip_g": vectors(3, 32, seed=1)}
        assert same(lab.read_embedding(write(tmp_path / "x", save_safetensors(tensors))), tensors)

    def test_output_embeddings_beside_them_go_behind_the_encoders(self, tmp_path):
        inputs = {"clip_l": vectors(3, 768), "clip_g": vectors(3, 1280)}
        outputs = {"clip_l_out": vectors(3, 768), "clip_g_out": vectors(3, 1280)}
        embedding = lab.read_embedding(write(tmp_path / "x", save_safetensors(inputs | outputs)))
        assert same(embedding, inputs)
        assert same(
            Embedding("x", embedding.outputs),
            {key.removesuffix("_out"): rows for key, rows in outputs.items()},
        )
        assert embedding.provenance.notes == ("clip_l_out, clip_g_out: put in behind the text encoder",)

    @pytest.mark.parametrize("steps", ["", "-steps-500"])
    def test_two_files_are_one_embedding(self, tmp_path, steps):
        first, second = vectors(3, 768), vectors(3, 1280)
        path = tmp_path / f"learned_embeds{steps}.safetensors"
        save_file({TOKEN: first}, path)
        save_file({TOKEN: second}, tmp_path / f"learned_embeds_2{steps}.safetensors")
        embedding = lab.read_embedding(path)
        assert same(embedding, {"clip_l": first, "clip_g": second})
        assert embedding.provenance.internal_name == TOKEN
        both = path.read_bytes() + (tmp_path / f"learned_embeds_2{steps}.safetensors").read_bytes()
        assert embedding.provenance.sha256 == hashlib.sha256(both).hexdigest()


class TestFolders:
    def test_a_diffusers_folder_is_one_embedding_called_by_the_folder(self, tmp_path):
        folder = tmp_path / "cat-toy"
        folder.mkdir()
        save_file({TOKEN: vectors(3, 768)}, folder / "learned_embeds.safetensors")
        save_file({TOKEN: vectors(3, 1280)}, folder / "learned_embeds_2.safetensors")
        save_file({TOKEN: vectors(3, 768, seed=5)}, folder / "learned_embeds-steps-500.safetensors")
        write(folder / "learned_embeds.bin", torch_file({TOKEN: vectors(1)}))
        (folder / "README.md").write_text("A toy.")
        embedding = lab.read_embedding(folder)
        assert embedding.name == "cat-toy"
        assert same(embedding, {"clip_l": vectors(3, 768), "clip_g": vectors(3, 1280)})

    def test_several_embeddings_are_a_list_by_name(self, tmp_path):
        write(tmp_path / "b.pt", torch_file(a1111(vectors(1))))
        write(tmp_path / "b.png", b"a preview")
        write(tmp_path / "a.webp", pixel_image(vectors(2), "WEBP"))
        write(tmp_path / "a.preview.png", b"a preview")
        assert [(each.name, each.count) for each in lab.read_embedding(tmp_path)] == [("a", 2), ("b", 1)]

    def test_a_single_other_file_is_one_embedding(self, tmp_path):
        write(tmp_path / "b.pt", torch_file(a1111(vectors(1))))
        assert lab.read_embedding(tmp_path).name == "b"

    def test_nothing_in_it(self, tmp_path):
        with pytest.raises(lab.InputError, match="no embedding in this folder"):
            lab.read_embedding(tmp_path)

    def test_one_name_for_several(self, tmp_path):
        for name in "ab":
            write(tmp_path / f"{name}.pt", torch_file(a1111(vectors(1))))
        with pytest.raises(lab.InputError, match="cannot call 2 embeddings 'x'"):
            lab.read_embedding(tmp_path, name="x")


class TestDreamArtist:
    def test_a_pair_is_a_list_of_positive_and_negative(self, tmp_path):
        write(tmp_path / "art.pt", torch_file(a1111(vectors(3))))
        write(tmp_path / "art-neg.pt", torch_file(a1111(vectors(6))))
        positive, negative = lab.read_embedding(tmp_path / "art.pt")
        assert (positive.name, positive.count, positive.kind) == ("art", 3, "unknown")
        assert (negative.name, negative.count, negative.kind) == ("art-neg", 6, "negative")
        assert [each.name for each in lab.read_embedding(tmp_path / "art.pt", name="x")] == ["x", "x-neg"]

    def test_the_negative_alone(self, tmp_path):
        write(tmp_path / "art.pt", torch_file(a1111(vectors(3))))
        write(tmp_path / "art-neg.pt", torch_file(a1111(vectors(6))))
        assert lab.read_embedding(tmp_path / "art-neg.pt").name == "art-neg"


class TestMetadata:
    def test_modelspec_and_kohya_keys(self, tmp_path):
        metadata = {
            "modelspec.is_negative_embedding": "True",
            "modelspec.trigger_phrase": "bad pictures",
            "ss_steps": "1600",
            "ss_sd_model_name": "some-model",
        }
        path = write(tmp_path / "x.safetensors", save_safetensors({"emb_params": vectors()}, metadata))
        embedding = lab.read_embedding(path)
        assert embedding.kind == "negative"
        assert embedding.provenance.internal_name == "bad pictures"
        assert embedding.provenance.step == 1600
        assert embedding.provenance.base_model == "some-model"
        assert embedding.provenance.metadata == metadata

    def test_nonsense_in_it_does_no_harm(self, tmp_path):
        metadata = {"ss_steps": "many", "lab.kind": "cheese"}
        path = write(tmp_path / "x.safetensors", save_safetensors({"emb_params": vectors()}, metadata))
        embedding = lab.read_embedding(path)
        assert (embedding.kind, embedding.provenance.step) == ("unknown", None)


def test_the_file_is_closed_afterwards(tmp_path):
    opened = Path("/proc/self/fd")
    if not opened.is_dir():
        pytest.skip("needs /proc")
    for name, (_, make) in LAYOUTS.items():
        path = write(tmp_path / "x", make(vectors()))
        embedding = lab.read_embedding(path)
        links = [str(link.readlink()) for link in opened.iterdir() if link.is_symlink()]
        assert str(path) not in links, name
        path.write_bytes(b"")  # a mapped file would take its vectors with it
        assert torch.equal(embedding.vectors["clip_l"], vectors())


def test_a1111_short_hash_and_checksum_are_as_in_its_source():
    def const_hash(values):  # stable-diffusion-webui, Embedding.checksum
        r = 0
        for v in values:
            r = (r * 281 ^ int(v) * 997) & 0xFFFFFFFF
        return r

    tensor = vectors(2, 768)
    embedding = Embedding("x", {"clip_l": tensor})
    assert embedding.a1111_checksum == f"{const_hash(tensor.reshape(-1) * 100) & 0xFFFF:04x}"
    assert Embedding("x", {"clip_l": tensor, "clip_g": tensor}).a1111_checksum is None


@needs_published_embeddings
class TestPublished:
    @pytest.mark.parametrize(
        "file, layout, shape, internal, step, short_hash",
        [
            ("EasyNegative.safetensors", "kohya", (8, 768), None, None, "c74b4e810b03"),
            ("bad-hands-5.pt", "a1111", (2, 768), "bad-hands-5", 1419, "01b60bdcc335"),
            ("birb-style.learned_embeds.bin", "diffusers", (1, 768), "<birb-style>", None, "f2e23a8f2d36"),
        ],
    )
    def test_file(self, file, layout, shape, internal, step, short_hash):
        embedding = lab.read_embedding(PUBLISHED_EMBEDDINGS / file)
        assert embedding.provenance.layout == layout
        assert embedding.vectors.keys() == {"clip_l"}
        assert embedding.vectors["clip_l"].shape == shape
        assert embedding.provenance.internal_name == internal
        assert embedding.provenance.step == step
        assert embedding.a1111_hash == short_hash

    def test_the_whole_folder(self):
        assert len(lab.read_embedding(PUBLISHED_EMBEDDINGS)) == 3


def same(embedding: Embedding, tensors: dict[str, torch.Tensor]) -> bool:
    return embedding.vectors.keys() == tensors.keys() and all(
        torch.equal(embedding.vectors[key], tensor) for key, tensor in tensors.items()
    )


@pytest.mark.parametrize("made", [{}, {"clip_l": [1, 2]}, {"clip_l": torch.ones(3)}, torch.ones(2, 3)])
def test_what_no_embedding_can_be_is_told_where_it_is_made(made):
    with pytest.raises(lab.InputError, match=r"expected tensors \(n, width\) by encoder"):
        lab.Embedding("x", made)


def test_a_path_that_is_none_is_one_line():
    with pytest.raises(lab.InputError, match="expected the path of an embedding, not int"):
        lab.read_embedding(3)


def test_steps_of_thousands_of_digits_are_no_steps(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"<x>": torch.ones(1, 768)}, path, metadata={"ss_steps": "9" * 5000})
    assert lab.read_embedding(path).provenance.step is None
