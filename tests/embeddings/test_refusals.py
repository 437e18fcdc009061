"""Files that are not embeddings, or that are meant to harm: one clear line, and nothing runs."""

import io
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save as save_safetensors

import lab
from lab.embeddings.containers import MAX_FILE_BYTES
from tests.embeddings.files import (
    TOKEN,
    a1111,
    a1111_json,
    encoded_image,
    pixel_image,
    text_chunk_image,
    torch_file,
    vectors,
)


def message(tmp_path, data: bytes, name: str = "x.pt") -> str:
    """What reading the bytes as a file says; it must be one line that begins with the path."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(lab.InputError) as caught:
        lab.read_embedding(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 200
    return text


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestCode:
    def carriers(self, harm):
        """The ways in which a pickle can reach us."""
        yield "torch zip", torch_file({TOKEN: vectors(), "more": harm})
        yield "torch zip, in the vectors' place", torch_file(a1111(harm))
        yield "torch legacy", torch_file({TOKEN: harm}, legacy=True)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            yield f"pickle protocol {protocol}", pickle.dumps({TOKEN: harm}, protocol)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(harm, 4))
            file.writestr("archive/version", "3\n")
        yield "zip", archive.getvalue()

    def check(self, tmp_path, harm, word):
        for carrier, data in self.carriers(harm):
            text = message(tmp_path, data)
            if not carrier.startswith(
                ("pickle protocol 0", "pickle protocol 1")
            ):  # these begin like any text
                assert "never runs code" in text, carrier
                assert word in text, carrier

    def test_os_system(self, tmp_path):
        marker = tmp_path / "ran"
        self.check(tmp_path, Runs(os.system, f"touch {marker}"), "system")
        assert not marker.exists()

    def test_eval(self, tmp_path):
        marker = tmp_path / "ran"
        self.check(tmp_path, Runs(eval, f"open({str(marker)!r}, 'w')"), "eval")
        assert not marker.exists()

    def test_a_class_from_main(self, tmp_path, monkeypatch):
        made = []

        class Trainer:
            def __setstate__(self, state):
                made.append(state)

        Trainer.__module__, Trainer.__qualname__ = "__main__", "Trainer"
        monkeypatch.setattr(sys.modules["__main__"], "Trainer", Trainer, raising=False)
        trainer = Trainer()
        trainer.name = "state"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.check(tmp_path, trainer, "__main__.Trainer")
        assert made == []

    @pytest.mark.parametrize("function, argument", [(bytearray, 10**11), (torch.device, "cuda")])
    def test_what_torch_itself_would_allow(self, tmp_path, function, argument):
        assert "never runs code" in message(tmp_path, torch_file({TOKEN: Runs(function, argument)}))


class TestSizes:
    def archive(self, size, stride, numbers, held=64, compressed=False, times=1) -> bytes:
        """A torch.save file whose tensor claims a shape, on a storage that claims a length."""

        class Storage: ...

        class Pickler(pickle.Pickler):
            def persistent_id(self, item):
                if isinstance(item, Storage):
                    return "storage", torch.FloatStorage, "0", "cpu", numbers
                return None

        rebuild = torch._utils._rebuild_tensor_v2
        claims = {
            f"<{i}>": Runs(rebuild, Storage(), 0, size, stride, False, OrderedDict()) for i in range(times)
        }
        pickled, data = io.BytesIO(), io.BytesIO()
        Pickler(pickled, protocol=2).dump(claims)
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
            file.writestr("archive/data.pkl", pickled.getvalue())
            file.writestr("archive/version", "3\n")
            file.writestr("archive/data/0", torch.ones(held // 4).numpy().tobytes())
        return data.getvalue()

    def test_the_archives_made_here_are_otherwise_fine(self, tmp_path):
        path = tmp_path / "x.pt"
        path.write_bytes(self.archive((4, 4), (4, 1), 16))
        assert torch.equal(lab.read_embedding(path).vectors["clip"], torch.ones(4, 4))

    def test_a_declared_100_gb(self, tmp_path):
        assert "declares" in message(tmp_path, self.archive((25_000_000, 1000), (1000, 1), 25_000_000_000))

    def test_many_storages_that_add_up(self, tmp_path):
        assert "declares" in message(tmp_path, self.archive((2, 768), (768, 1), 10_000, times=1000))

    def test_a_view_that_claims_100_gb_of_one_number(self, tmp_path):
        assert "too many for an embedding" in message(tmp_path, self.archive((10**7, 10**4), (0, 0), 16))

    def test_a_view_beyond_its_storage(self, tmp_path):
        message(tmp_path, self.archive((1000, 1000), (1000, 1), 16))

    def test_a_storage_longer_than_its_record(self, tmp_path):
        message(tmp_path, self.archive((2, 20), (20, 1), 40))

    def test_a_compressed_archive(self, tmp_path):
        data = self.archive((2, 768), (768, 1), 1536, held=10**7, compressed=True)
        assert "more data than it has" in message(tmp_path, data)

    def test_a_safetensors_view_of_100_gb(self, tmp_path):
        message(tmp_path, safetensors_file({TOKEN: header((25_000_000, 1000), 0, 10**11)}, bytes(64)))

    def test_a_file_too_large(self, tmp_path):
        path = tmp_path / "model.safetensors"
        with path.open("wb") as file:
            file.truncate(MAX_FILE_BYTES + 1)
        with pytest.raises(lab.InputError, match="too large for an embedding; is it a model"):
            lab.read_embedding(path)

    def test_an_image_of_too_many_pixels(self, tmp_path):
        data = bytearray(text_chunk_image(vectors(1, 8)))
        data[16:24] = struct.pack(">II", 100_000, 100_000)
        message(tmp_path, bytes(data))


def header(shape, start, end, dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def safetensors_file(tensors: dict, data: bytes) -> bytes:
    text = repr(tensors).replace("'", '"').encode()
    return struct.pack("<Q", len(text)) + text + data


class TestSafetensors:
    def test_the_files_made_here_are_otherwise_fine(self, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(safetensors_file({TOKEN: header((2, 8), 0, 64)}, vectors(2, 8).numpy().tobytes()))
        assert torch.equal(lab.read_embedding(path).vectors["clip"], vectors(2, 8))

    @pytest.mark.parametrize(
        "lie",
        [
            header((2, 8), 0, 6400),
            header((2, 8), 64, 0),
            header((2, 8), 32, 96),
            header((2, 8), -64, 0),
            header((2, 80), 0, 64),
            header((2**62, 2**62), 0, 64),
            header((2, 8), 0, 64, dtype="F99"),
            header((2, 8), 0, 2**64),
        ],
    )
    def test_headers_that_lie_about_offsets(self, tmp_path, lie):
        message(tmp_path, safetensors_file({TOKEN: lie}, bytes(64)))

    @pytest.mark.parametrize("length", [0, 2**63, 2**64 - 1, 50])
    def test_headers_that_lie_about_their_length(self, tmp_path, length):
        data = safetensors_file({TOKEN: header((2, 8), 0, 64)}, bytes(64))
        message(tmp_path, struct.pack("<Q", length) + data[8:])


class TestVectors:
    def refuse(self, tmp_path, tensor) -> str:
        texts = [message(tmp_path, make({TOKEN: tensor})) for make in (save_safetensors, torch_file)]
        assert texts[0] == texts[1]
        return texts[0]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_nan_or_infinite(self, tmp_path, value):
        tensor = vectors(3)
        tensor[1, 5] = value
        assert "1 of 3 vectors for clip_l hold NaN or infinity" in self.refuse(tmp_path, tensor)

    def test_a_number_too_large_for_float32(self, tmp_path):
        assert "NaN or infinity" in self.refuse(tmp_path, vectors().double() * 1e300)

    @pytest.mark.parametrize("shape", [(), (2, 2, 768), (1, 1, 1, 768)])
    def test_a_wrong_rank(self, tmp_path, shape):
        assert f"the shape {shape}" in self.refuse(tmp_path, torch.ones(shape))

    @pytest.mark.parametrize("shape", [(0, 768), (2, 0), (0,)])
    def test_no_vectors(self, tmp_path, shape):
        assert "no vectors" in self.refuse(tmp_path, torch.ones(shape))

    def test_zeros(self, tmp_path):
        assert "are zero" in self.refuse(tmp_path, torch.zeros(2, 768))

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
    def test_not_floating_point(self, tmp_path, dtype):
        assert "expected floating point" in self.refuse(tmp_path, torch.ones(2, 768, dtype=dtype))

    def test_different_counts(self, tmp_path):
        data = save_safetensors({"clip_l": vectors(2, 768), "clip_g": vectors(3, 1280)})
        assert "different numbers of vectors: " in message(tmp_path, data)


class TestOtherFiles:
    @pytest.mark.parametrize(
        "data, word",
        [
            (b"", "the file is empty"),
            (b"<!DOCTYPE html><html>", "a web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
            (b"hello", "not a safetensors"),
            (torch_file({}), "no vectors in it"),
            (torch_file([]), "no vectors in it"),
            (torch_file([1]), "something else than dictionaries"),
            (torch_file({"step": 5}), "no vectors in it"),
            (torch_file({"string_to_param": {}}), "string_to_param"),
            (torch_file({"string_to_param": {"a": vectors(), "b": vectors()}}), "string_to_param"),
            (torch_file({"string_to_param": 5}), "string_to_param"),
            (save_safetensors({"lora_unet.up": vectors(), "lora_unet.down": vectors()}), "--lora"),
            (save_safetensors({"a.weight": vectors(), "a.bias": vectors()}), "is it a model"),
            (
                save_safetensors({"emp_params": torch.zeros(5, 8), "emp_params_out": vectors()}),
                "another shape",
            ),
            (save_safetensors({"emp_params": vectors(), "emp_params_out": vectors() * 0}), "all vectors"),
            (
                encoded_image(vectors(8, 24).abs().byte().reshape(8, 8, 3).numpy(), "PNG"),
                "without an embedding",
            ),
            (encoded_image(torch.zeros(8, 8, 3).byte().numpy(), "PNG"), "without an embedding"),
            (a1111_json(vectors()), "not a safetensors"),
        ],
    )
    def test_what_it_is_instead(self, tmp_path, data, word):
        assert word in message(tmp_path, data)

    def test_missing(self, tmp_path):
        with pytest.raises(lab.InputError, match="no such file"):
            lab.read_embedding(tmp_path / "x.pt")
        with pytest.raises(lab.InputError, match="no such file"):
            lab.read_embedding("a\0b")

    def test_a_broken_second_half(self, tmp_path):
        (tmp_path / "learned_embeds_2.safetensors").write_bytes(b"hello")
        message(tmp_path, save_safetensors({TOKEN: vectors()}), "learned_embeds.safetensors")

    def test_pixels_with_something_else_in_them(self, tmp_path):
        data = pixel_image(vectors(1, 8))
        image = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        message(tmp_path, bytes(image[: len(image) // 2].tolist()))
