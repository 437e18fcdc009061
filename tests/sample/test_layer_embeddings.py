"""kohya's XTI: embeddings with other vectors for each cross-attention layer of the U-Net."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import lab
from lab.embeddings.embedding import XTI_LAYERS, Embedding
from lab.embeddings.merge import merge
from lab.sample.config import GenerateConfig, requests
from lab.sample.settings import check_requests_by_configs

QUICK = {"steps": 2, "scheduler": "ddim", "seeds": 3}
LAYERS = [
    *(f"down_blocks.{block}.attentions.{place}" for block in range(3) for place in range(2)),
    "mid_block.attentions.0",
    *(f"up_blocks.{block}.attentions.{place}" for block in (1, 2, 3) for place in range(3)),
]


@pytest.fixture
def file(tmp_path):
    def write(same=False, name="toy"):
        rows = [torch.randn((2, 32), generator=torch.Generator().manual_seed(place)) for place in range(16)]
        tensors = {layer: rows[0 if same else place] for place, layer in enumerate(XTI_LAYERS)}
        save_file(
            {layer: tensor.clone() for layer, tensor in tensors.items()}, tmp_path / f"{name}.safetensors"
        )
        return tmp_path / f"{name}.safetensors"

    return write


def latents(layered, embedding, prompt="a <toy> on white", **settings):
    return lab.generate(layered, prompt=prompt, embeddings=[embedding], **QUICK | settings)[0].latents


def reading(text, forward):
    """A layer's forward that attends to a text of its own, whatever it is given."""

    def forward_with_text(hidden_states, encoder_hidden_states, **others):
        return forward(hidden_states, encoder_hidden_states=text, **others)

    return forward_with_text


def test_each_layer_reads_the_text_with_its_own_vectors(layered, file, monkeypatch):
    learned = lab.read_embedding(file())
    found = latents(layered, learned, guidance=1)
    for layer, place in zip(XTI_LAYERS, LAYERS, strict=True):
        own = Embedding("toy", {"clip": learned.layers[layer]})
        text = lab.encode(layered, "a <toy> on white", embeddings=[own]).embeds[None]
        module = layered.unet.get_submodule(place).transformer_blocks[0].attn2
        monkeypatch.setattr(module, "forward", reading(text, module.forward))
    torch.testing.assert_close(latents(layered, Embedding("toy", learned.vectors), guidance=1), found)


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": 5.0},
        {"guidance": 5.0, "negative_prompt": "<toy>, " + "a red apple, " * 20},
        {"guidance": 1.0, "negative_prompt": "<toy>", "negative_method": "nag"},
        {"guidance": 1.0, "negative_prompt": "a (<toy>:1.2) dog", "negative_method": "vsf"},
        {
            "guidance": 5.0,
            "prompt": "a [cat:(<toy>:1.3):1] AND a (<toy>:-1) dog",
            "negative_method": "negpip",
        },
    ],
)
def test_layers_that_are_all_alike_are_an_ordinary_embedding(settings, layered, file):
    learned = lab.read_embedding(file(same=True))
    plain = Embedding("toy", {"clip": learned.layers["MID"]})  # their mean is not the same to the last digit
    found, expected = (latents(layered, one, **settings) for one in (learned, plain))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    other = lab.read_embedding(file())
    assert not torch.allclose(
        latents(layered, other, **settings), latents(layered, plain, **settings), atol=1e-4
    )


def test_the_record_lists_it_and_neighbours_see_nothing_of_it(layered, file):
    learned = lab.read_embedding(file())
    both = lab.generate(layered, prompt=["a <toy>", "a cat"], embeddings=[learned], guidance=4.0, **QUICK)
    assert both[0].record["applied"][0]["name"] == "toy" and both[0].record["applied"][0]["vectors"] == 2
    torch.testing.assert_close(
        both[1].latents, latents(layered, learned, "a cat", guidance=4.0), atol=1e-5, rtol=1e-4
    )


def test_where_it_has_no_place_it_is_refused(layered, file, sd1, tmp_path):
    learned = lab.read_embedding(file())
    with pytest.raises(lab.InputError, match=r"16 layers, as SD 1\.x's U-Net has them; .*'s has 4"):
        check_requests_by_configs(sd1.facts, requests(GenerateConfig(prompt=["a <toy>"])), [learned])
    with pytest.raises(lab.InputError, match=r"16 layers, as SD 1\.x's U-Net has them; .*'s has 4"):
        lab.encode(sd1, "a <toy>", embeddings=[learned])
    with pytest.raises(
        lab.InputError, match="kohya layout has no place for vectors for each layer of a U-Net; take xti"
    ):
        learned.save(tmp_path / "x.safetensors", layout="kohya")
    with pytest.raises(lab.InputError, match="no place for vectors in front of the text encoder"):
        Embedding("toy", learned.vectors).save(tmp_path / "x.safetensors", layout="xti")
    with pytest.raises(lab.InputError, match="cannot be merged"):
        merge([learned, learned])
    save_file({"IN01": torch.ones(1, 32)}, tmp_path / "few.safetensors")
    with pytest.raises(lab.InputError, match="for other layers than those"):
        lab.read_embedding(tmp_path / "few.safetensors")


def test_it_is_written_as_it_was_read(file, tmp_path):
    learned = lab.read_embedding(file())
    for suffix in (".safetensors", ".pt"):
        learned.save(tmp_path / f"again{suffix}")
        again = lab.read_embedding(tmp_path / f"again{suffix}")
        assert again.provenance.layout == "xti" and again.tensors.keys() == learned.tensors.keys()
        assert all(torch.equal(again.tensors[key], rows) for key, rows in learned.tensors.items())


def test_a_compiled_unet_whose_layers_are_closed_refuses_it(layered, file):
    compiled = replace(layered, options=layered.options.model_copy(update={"compile": True}))
    with pytest.raises(lab.InputError, match="which --compile closes"):
        latents(compiled, lab.read_embedding(file()))
