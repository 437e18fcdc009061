"""Prompt embeddings on disk."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.condition.embeds_file import read_embeds, write_embeds
from lab.condition.encode import encode
from lab.errors import InputError
from tests.condition.samples import embedding_for


def test_what_is_written_is_read(tmp_path, sdxl):
    path = tmp_path / "x.safetensors"
    made = encode(sdxl, "a [cat:<toy>:2] AND (dog:1.2):0.5", embeddings=[embedding_for(sdxl)], steps=4)
    write_embeds(path, made, {"model": "tiny"})
    back = read_embeds(path, sdxl, 4)
    assert back.prompt == made.prompt and [part.weight for part in back.parts] == [1.0, 0.5]
    for part, other in zip(made.parts, back.parts, strict=True):
        for (until, entry), (again, copy) in zip(part.entries, other.entries, strict=True):
            assert until == again and torch.equal(entry.embeds, copy.embeds)
            assert torch.equal(entry.pooled, copy.pooled)
            assert (entry.text, entry.spans, entry.applied) == (copy.text, copy.spans, copy.applied)
    assert set(load_file(path)) == {"embeds", "pooled", "embeds.1", "pooled.1", "embeds.2", "pooled.2"}


def test_files_that_do_not_fit_stop(tmp_path, sd1, sdxl):
    path = tmp_path / "x.safetensors"
    write_embeds(path, encode(sd1, "a [cat:dog:2]", steps=4), {})
    with pytest.raises(InputError, match=r"the model .* takes 77 x 96"):
        read_embeds(path, sdxl, 4)
    with pytest.raises(InputError, match=r"over 4 calls .* lab encode --steps"):
        read_embeds(path, sd1, 10)
    with pytest.raises(InputError, match=r"go into a \.safetensors file"):
        write_embeds(tmp_path / "x.pt", encode(sd1, "cat"), {})


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_other_files_stop(tmp_path, sd1, content):
    path = tmp_path / "x.safetensors"
    if content is None:
        save_file({"one": torch.zeros(77, 32), "other": torch.zeros(77, 32)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="no prompt embeddings"):
        read_embeds(path, sd1, 4)
    with pytest.raises(InputError, match="no such file"):
        read_embeds(tmp_path / "absent.safetensors", sd1, 4)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("batched", [False, True])
def test_bare_tensors_are_prompt_embeddings(tmp_path, sd1, suffix, batched):
    made = encode(sd1, "a cat").embeds
    tensor, path = made[None] if batched else made, tmp_path / f"published{suffix}"
    if suffix == ".safetensors":
        save_file({"emb": tensor.contiguous()}, path)
    else:
        torch.save(tensor if batched else {"prompt_embeds": tensor}, path)
    read = read_embeds(path, sd1, 4)
    assert torch.equal(read.embeds, made) and read.prompt == "published"


def test_a_bare_tensor_for_sdxl_comes_with_a_pooled_one(tmp_path, sdxl):
    path, made = tmp_path / "x.safetensors", encode(sdxl, "a cat")
    save_file({"prompt_embeds": made.embeds[None], "pooled_prompt_embeds": made.pooled[None]}, path)
    assert torch.equal(read_embeds(path, sdxl, 4).pooled, made.pooled)
    save_file({"prompt_embeds": made.embeds[None]}, path)
    with pytest.raises(InputError, match="pooled embeddings are for SDXL"):
        read_embeds(path, sdxl, 4)
