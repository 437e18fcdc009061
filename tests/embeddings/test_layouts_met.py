"""Layouts that people bring beside the common ones, and files that are something else."""

import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

import lab
from lab.embeddings.read import read_all
from lab.listening import Listener
from tests.embeddings.files import TOKEN, a1111, encoded_image, torch_file, vectors

L, G = vectors(2, 768), vectors(2, 1280, seed=1)
LORA = {"lora_unet_x.lora_down.weight": vectors(4, 768), "lora_unet_x.lora_up.weight": vectors(768, 4)}
OPTIMIZER = {"state": {0: {"step": torch.tensor(5.0), "exp_avg": vectors()}}, "param_groups": [{"lr": 0.1}]}


def read(tmp_path, data: bytes, name: str | None = None):
    path = tmp_path / "x.data"
    path.write_bytes(data)
    return lab.read_embedding(path, name)


def refusal(tmp_path, data: bytes) -> str:
    with pytest.raises(lab.InputError) as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{tmp_path / 'x.data'}: ")


@pytest.mark.parametrize(
    "tensors",
    [
        {"clip_l": L, "clip_g": G},
        {"text_encoders_0": L, "text_encoders_1": G},
        {"text_encoder": L, "text_encoder_2": G},
        {"clip_l": L, "clip_g": G, "step": torch.tensor(100)},
        {"clip_l": L, "clip_g": G, "exp_avg": L + 1},
        {"clip_l": L, "clip_g": G, "t5xxl": vectors(2, 4096)},
        {"clip_l": G, "clip_g": L},
        {"bundle_emb.cat.clip_l": L, "bundle_emb.cat.clip_g": G},
        {"bundle_emb.cat.clip_l": L, "bundle_emb.cat.clip_g": G, **LORA},
    ],
    ids=lambda tensors: "+".join(tensors)[:60],
)
def test_sdxl_by_any_name(tmp_path, tensors):
    embedding = read(tmp_path, save_safetensors(tensors))
    assert embedding.vectors.keys() == {"clip_l", "clip_g"}
    assert torch.equal(embedding.vectors["clip_l"], L)
    assert torch.equal(embedding.vectors["clip_g"], G)


@pytest.mark.parametrize(
    "data, inside, step",
    [
        (L, None, None),
        (nn.Parameter(L), None, None),
        ({"emb_params": L, "step": 100, "name": "x"}, "x", 100),
        ({"emb_params": L, "step": torch.tensor(100)}, None, 100),
        ({"emb_params": L, "optimizer": OPTIMIZER}, None, None),
        ({"<cat>": L, "initializer_token": "cat"}, "<cat>", None),
        ({"<cat>": L, "optimizer_state_dict": OPTIMIZER}, "<cat>", None),
        ({"<cat>": L, "loss": torch.tensor([0.5]), "more": vectors(3, 768)}, "<cat>", None),
        ({"<cat>": L[0], "<cat>_1": L[1]}, "<cat>", None),
        ({"text_encoders_0": L}, None, None),
        ({"bundle_emb.neg.string_to_param.*": L}, "neg", None),
        (a1111(L, optimizer_state_dict=OPTIMIZER), "internal", 1419),
    ],
)
def test_one_encoder_whatever_stands_beside_it(tmp_path, data, inside, step):
    embedding = read(tmp_path, torch_file(data))
    assert embedding.vectors.keys() == {"clip_l"}
    assert torch.equal(embedding.vectors["clip_l"], L)
    assert (embedding.provenance.internal_name, embedding.provenance.step) == (inside, step)


def test_the_vectors_of_a_token_are_put_in_order(tmp_path):
    """Safetensors sorts by name, which has 10 before 2, and is read in an order that changes by chance."""
    rows = vectors(12, 768)
    names = ["<cat>", *(f"<cat>_{i}" for i in range(1, 12))]
    embedding = read(tmp_path, save_safetensors(dict(zip(names, rows.unbind(), strict=True))))
    assert torch.equal(embedding.vectors["clip_l"], rows)


def test_a_single_row_has_no_axis_in_a_bare_tensor(tmp_path):
    assert read(tmp_path, torch_file(L[0])).vectors["clip_l"].shape == (1, 768)


@pytest.mark.parametrize(
    "tensors, note",
    [
        ({"clip_l": L, "clip_g": G, "t5": vectors(2, 4096)}, "t5 for T5 (SD3, Flux, PixArt, Chroma)"),
        ({"clip_l": L, "t5xxl": vectors(2, 4096)}, "the CLIP half alone is used"),
        ({"clip_l": G, "clip_g": L}, "matched by width"),
        ({"bundle_emb.cat.clip_l": L, **LORA}, "a LoRA, to be given by --lora too"),
        ({"emb_params": L, "other": G}, "other: beside the vectors, not used"),
    ],
)
def test_what_is_not_used_is_noted(tmp_path, tensors, note):
    assert note in " ".join(read(tmp_path, save_safetensors(tensors)).provenance.notes)


def test_a_list_of_equal_names_may_be_snapshots(tmp_path):
    embedding = read(tmp_path, torch_file([{"emb": vectors(1, seed=i)} for i in range(11)]))
    assert embedding.count == 11
    assert "snapshots" in embedding.provenance.notes[0]


@pytest.mark.parametrize(
    "data",
    [
        {"<cat>": L, "<dog>": L + 1},
        {"bundle_emb.cat.clip_l": L, "bundle_emb.dog.clip_l": L + 1},
        {"string_to_param": {"cat": L, "dog": L + 1}},
    ],
)
def test_of_several_in_one_file_one_is_named(tmp_path, data):
    text = refusal(tmp_path, torch_file(data))
    assert "holds 2 embeddings" in text
    assert "cat" in text and "dog" in text
    assert torch.equal(read(tmp_path, torch_file(data), "dog").vectors["clip_l"], L + 1)


@pytest.mark.parametrize(
    "data, word",
    [
        (LORA, "a LoRA, not an embedding"),
        ({"lora_unet_x.lora_down.weight": vectors(4, 768)}, "a LoRA, not an embedding"),
        ({"lora_unet_x.hada_w1_a": L, "lora_unet_x.hada_w1_b": L}, "LyCORIS"),
        ({"lora_unet_x.lokr_w1": L, "lora_unet_x.lokr_w2": L}, "LyCORIS"),
        ({768: [{"linear.weight": L}], "layer_structure": [1, 2, 1]}, "a hypernetwork"),
        ({"hash": "abcd", "optimizer_state_dict": OPTIMIZER}, "the state of an optimizer"),
        (OPTIMIZER, "the state of an optimizer"),
        ({"qwen25_7b": vectors(2, 3584)}, "for Qwen (Qwen-Image, Z-Image, Anima)"),
        ({"bundle_emb.cat.t5_out": vectors(2, 4096)}, "nothing in it is for CLIP"),
        (vectors(2, 4096), "for T5"),
        ({"double_blocks.0.img_attn.norm": L, "img_in.weight": L}, "a Flux model"),
        ({"joint_blocks.0.x": L, "y": L}, "an SD3 model"),
        ({"model.diffusion_model.x.bias": L}, "a model or a part of one, not an embedding"),
        ({"step": 5, "note": "a"}, "it holds step, note"),
    ],
)
def test_other_files_are_called_by_their_name(tmp_path, data, word):
    assert word in refusal(tmp_path, torch_file(data))


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("more", [{}, {"__MACOSX/._archive": b"x"}])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_archives_packed_again_are_read(tmp_path, method, more):
    with zipfile.ZipFile(io.BytesIO(torch_file({TOKEN: L}))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert torch.equal(read(tmp_path, packed(files | more, method)).vectors["clip_l"], L)


def test_an_archive_around_the_file_is_named(tmp_path):
    text = refusal(tmp_path, packed({"neg.pt": torch_file({TOKEN: L})}))
    assert "a zip archive with neg.pt in it: unpack it" in text


def test_float8_is_read_from_pickles(tmp_path):
    embedding = read(tmp_path, torch_file({"emb_params": L.to(torch.float8_e4m3fn)}))
    assert torch.equal(embedding.vectors["clip_l"], L.to(torch.float8_e4m3fn).float())


def zipped(data: object, other: dict[str, bytes]) -> bytes:
    """What torch writes, with other records in the place of some."""
    with zipfile.ZipFile(io.BytesIO(torch_file(data))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return packed(files | {f"archive/{name}": value for name, value in other.items()}, zipfile.ZIP_STORED)


def with_attribute(tensor: Tensor) -> Tensor:
    tensor.note = "of a trainer"
    return tensor


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        {TOKEN: with_attribute(L.clone())},
        {TOKEN: with_attribute(nn.Parameter(L.clone()))},
        {TOKEN: L, "shape": L.shape, "dtype": L.dtype},
        OrderedDict([(TOKEN, nn.Parameter(L.clone(), requires_grad=False))]),
        {TOKEN: torch.cat([L, L, L])[4:6].t().contiguous().t()},
    ],
    ids=["attribute", "parameter with state", "size and dtype", "ordered", "view"],
)
def test_what_stands_beside_the_values_keeps_no_file_from_being_read(tmp_path, data, legacy):
    expected = data[TOKEN].detach()
    assert torch.equal(read(tmp_path, torch_file(data, legacy)).vectors["clip_l"], expected)


@pytest.mark.parametrize("version", ["1.8.1", "1.12.1"])
def test_files_that_old_torch_wrote_are_read(version):
    """Each an A1111 dictionary with a `ParameterDict`, written by that torch itself."""
    embedding = lab.read_embedding(Path(__file__).parent / "old" / f"torch-{version}.pt")
    expected = torch.arange(8.0).reshape(2, 4) / 8
    assert torch.equal(embedding.vectors["clip"], expected) and embedding.provenance.step == 1419


def test_a_zip_of_a_big_endian_machine_is_read(tmp_path):
    other = {"byteorder": b"big", "data/0": L.numpy().astype(">f4").tobytes()}
    assert torch.equal(read(tmp_path, zipped({TOKEN: L}, other)).vectors["clip_l"], L)


def test_an_old_container_of_a_big_endian_machine_is_refused(tmp_path):
    data = torch_file({TOKEN: L}, legacy=True)
    place = data.index(b"little_endian") + len(b"little_endian")
    turned = data[:place] + data[place:].replace(b"\x88", b"\x89", 1)  # True, False
    assert "big-endian machine" in refusal(tmp_path, turned)


@pytest.mark.parametrize("dtype", ["bool", "int8", "complex64"])
def test_numbers_that_no_vector_has_are_named(tmp_path, dtype):
    assert f"vectors are {dtype}" in refusal(tmp_path, torch_file({TOKEN: L.to(getattr(torch, dtype))}))


@pytest.mark.parametrize("name", ["<猫 Ł\"'/\\ é>", "<😀>", "<a\nb>", "", "../<x>"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_token_may_be_called_anything(tmp_path, name, legacy):
    assert torch.equal(read(tmp_path, torch_file({name: L}, legacy)).vectors["clip_l"], L)


def test_a_newer_pickle_is_told_from_a_damaged_one(tmp_path, recwarn):
    buffer = io.BytesIO()
    torch.save(a1111(nn.ParameterDict({"*": nn.Parameter(L)})), buffer, pickle_protocol=4)
    assert "its pickle has protocol 4" in refusal(tmp_path, buffer.getvalue())
    assert not recwarn


class TestFolder:
    def test_strays_are_named_and_the_rest_is_read(self, tmp_path):
        (tmp_path / "a.pt").write_bytes(torch_file(a1111(L)))
        (tmp_path / "._a.pt").write_bytes(b"resource fork")
        (tmp_path / "grid.png").write_bytes(encoded_image(torch.zeros(8, 8, 3).byte().numpy(), "PNG"))
        (tmp_path / "b.safetensors").write_bytes(save_safetensors(LORA))
        notes: list[str] = []

        class Heard(Listener):
            def note(self, line: str) -> None:
                notes.append(line)

        assert [each.name for each in read_all(tmp_path, listener=Heard())] == ["a"]
        assert len(notes) == 2
        assert "b.safetensors: a LoRA" in notes[0]
        assert "grid.png: " in notes[1]

    def test_others_beside_learned_embeds_are_read_too(self, tmp_path):
        folder = tmp_path / "cat"
        folder.mkdir()
        (folder / "learned_embeds.bin").write_bytes(torch_file({TOKEN: L}))
        (folder / "learned_embeds-steps-500.bin").write_bytes(torch_file({TOKEN: L}))
        (folder / "dog.bin").write_bytes(torch_file({"<dog>": L}))
        assert [each.name for each in read_all(folder)] == ["cat", "dog"]
