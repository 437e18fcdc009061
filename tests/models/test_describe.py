import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.models.describe import describe
from tests.ldm import write_checkpoint


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_folders_are_described_as_they_load(family, request):
    bundle = request.getfixturevalue(family)
    told = describe(str(bundle.root))
    assert (told.facts.family, told.facts.prediction_type, told.hash) == (
        bundle.family,
        bundle.prediction_type,
        bundle.hash,
    )
    assert told.encoders == tuple((tower.key, tower.width) for tower in bundle.towers)
    assert told.parameters["unet"] == sum(parameter.numel() for parameter in bundle.unet.parameters())
    assert told.parameters["vae"] == sum(parameter.numel() for parameter in bundle.vae.parameters())
    assert told.dtypes == ("F32",)
    assert told.facts.defaults == bundle.defaults


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_files_are_described_by_their_tensors(family, request, tmp_path):
    bundle = request.getfixturevalue(family)
    path = write_checkpoint(bundle, tmp_path / "x.safetensors")
    told, folder = describe(f"file:{path}"), describe(str(bundle.root))
    assert (told.facts.family, told.encoders, told.facts.prediction_type) == (
        folder.facts.family,
        folder.encoders,
        folder.facts.prediction_type,
    )
    assert told.parameters["unet"] == folder.parameters["unet"]
    assert told.parameters["vae"] == folder.parameters["vae"]


@pytest.mark.parametrize(
    ("marks", "metadata", "predicts", "told"),
    [
        ((), {}, "epsilon", {"predicts": "no mark in the file: what SDXL does"}),
        (("v_pred",), {}, "v_prediction", {"predicts": "tensor v_pred"}),
        (
            ("v_pred", "ztsnr"),
            {},
            "v_prediction",
            {"predicts": "tensor v_pred", "zero terminal SNR": "tensor ztsnr"},
        ),
        (
            (),
            {"modelspec.prediction_type": "v"},
            "v_prediction",
            {"predicts": "metadata modelspec.prediction_type"},
        ),
    ],
)
def test_what_a_file_is_recognised_by(marks, metadata, predicts, told, sdxl, tmp_path):
    path = write_checkpoint(sdxl, tmp_path / "x.safetensors")
    save_file(load_file(path) | {mark: torch.zeros(0) for mark in marks}, path, metadata)
    description = describe(f"file:{path}")
    assert description.facts.prediction_type == predicts
    assert description.told_by.items() >= told.items()
    first, second = description.told_by["family"].split(" and ")
    assert first.startswith("conditioner.embedders.0.transformer.")
    assert second.startswith("conditioner.embedders.1.model.")
