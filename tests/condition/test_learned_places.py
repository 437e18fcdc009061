"""OneTrainer's output embeddings: rows behind the text encoder, after all weights, in every dialect."""

import pytest
import torch
from safetensors.torch import save_file

import lab
from lab.embeddings.embedding import Embedding
from lab.embeddings.merge import merge
from lab.prompt.dialects import DIALECTS

WIDTHS = {"sd1": {"clip": 32}, "sd2": {"clip": 32}, "sdxl": {"clip_l": 32, "clip_g": 64}}


def embedding_for(family, name="toy", count=2):
    generator = torch.Generator().manual_seed(5)
    outputs = {key: torch.randn((count, width), generator=generator) for key, width in WIDTHS[family].items()}
    zeros = {key: torch.zeros_like(rows) for key, rows in outputs.items()}
    return Embedding(name, zeros, outputs=outputs)


def silent(family):
    """What the text encoder sees in its place: zeros."""
    return Embedding("toy", embedding_for(family).vectors)


@pytest.mark.parametrize("family", WIDTHS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_rows_take_its_place_and_the_others_are_as_beside_zeros(family, dialect, request):
    bundle = request.getfixturevalue(family)
    learned = embedding_for(family)
    made = lab.encode(bundle, "a <toy> on white", embeddings=[learned], dialect=dialect)
    expected = lab.encode(
        bundle, "a <toy> on white", embeddings=[silent(family)], dialect=dialect
    ).embeds.clone()
    expected[2:4] = torch.cat(list(learned.outputs.values()), dim=1)
    assert torch.equal(made.embeds, expected)
    assert [use.positions for use in made.applied] == [(2, 3)]
    assert not made.first.notes


@pytest.mark.parametrize(
    ("dialect", "prompt"),
    [
        ("a1111", "a (red:1.4) cat (<toy>:1.3)"),
        ("a1111", "a (red:1.4) cat [(<toy>:1.3):dog:0.5]"),
        ("comfy", "a (red:1.4) cat (<toy>:1.3)"),
        ("compel", "a (red)1.4 cat (<toy>)1.3"),
    ],
)
def test_weights_do_not_reach_them_and_a_note_says_so(dialect, prompt, sd1):
    learned = embedding_for("sd1")
    made, beside = (
        lab.encode(sd1, prompt, embeddings=[one], dialect=dialect) for one in (learned, silent("sd1"))
    )
    (rows,) = [use.positions for use in made.applied]
    assert torch.equal(made.embeds[list(rows)], learned.outputs["clip"])
    others = [row for row in range(77) if row not in rows]
    assert torch.equal(made.embeds[others], beside.embeds[others])
    assert any("1.3 does nothing" in note for note in made.first.notes)


def test_in_a_long_prompt_and_as_what_is_avoided_they_are_the_same_rows(sd1):
    learned = embedding_for("sd1", count=60)
    made = lab.encode(sd1, "a red apple, " * 20 + "<toy>", embeddings=[learned])
    ((use),) = made.applied
    assert use.positions[0] > 77 and torch.equal(made.embeds[list(use.positions)], learned.outputs["clip"])
    images = [
        lab.generate(
            sd1, prompt=f"a cat{more}", embeddings=[learned], negative_method="negpip", guidance=1, steps=1
        )
        for more in ("", " (<toy>:-1)")
    ]
    assert not torch.equal(images[0][0].latents, images[1][0].latents)


def test_onetrainers_files_are_read_and_written(tmp_path, sd1, sdxl):
    one = {"emp_params": torch.zeros(2, 32), "emp_params_out": embedding_for("sd1").outputs["clip"]}
    two = {f"{key}_out": rows for key, rows in embedding_for("sdxl").outputs.items()}
    for bundle, tensors, family in ((sd1, one, "sd1"), (sdxl, two, "sdxl")):
        save_file(tensors, tmp_path / "toy.safetensors")
        read = lab.read_embedding(tmp_path / "toy.safetensors")
        made = lab.encode(bundle, "a <toy>", embeddings=[read])
        assert torch.equal(
            made.embeds, lab.encode(bundle, "a <toy>", embeddings=[embedding_for(family)]).embeds
        )
        assert "put in behind the text encoder" in read.provenance.notes[0]
        read.save(tmp_path / "again.safetensors")
        again = lab.read_embedding(tmp_path / "again.safetensors")
        assert again.tensors.keys() == read.tensors.keys()
        assert all(torch.equal(again.tensors[key], rows) for key, rows in read.tensors.items())


def test_where_there_is_no_place_for_them_they_are_refused(tmp_path, sd1):
    learned = embedding_for("sd1")
    with pytest.raises(lab.InputError, match="no place for an output embedding"):
        learned.save(tmp_path / "x.safetensors", layout="kohya")
    with pytest.raises(lab.InputError, match="cannot be merged"):
        merge([learned, learned])
    bad = {"emp_params": torch.zeros(1, 32), "emp_params_out": torch.ones(2, 32)}
    save_file(bad, tmp_path / "bad.safetensors")
    with pytest.raises(lab.InputError, match="another shape"):
        lab.read_embedding(tmp_path / "bad.safetensors")
