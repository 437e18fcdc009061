import hashlib

import pytest

from lab.models.weights import hash_files, pick_weights

NAMES = [
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "text_encoder_2/model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


@pytest.mark.parametrize(
    ("part", "variant", "picked"),
    [
        ("unet", None, [NAMES[2]]),
        ("unet", "fp16", [NAMES[3]]),
        ("unet", "non_ema", [NAMES[4]]),
        ("text_encoder", "fp16", NAMES[5:7]),
        ("text_encoder_2", None, []),
        ("vae", "fp16", [NAMES[9]]),
    ],
)
def test_one_set_of_files_is_picked_for_a_part(part, variant, picked):
    assert pick_weights(NAMES, part, variant) == picked


def test_the_hash_of_one_file_is_its_own_and_of_several_that_of_their_digests(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1" * 100_000)
    two.write_bytes(b"2")
    digests = [hashlib.sha256(path.read_bytes()) for path in (one, two)]
    assert hash_files([one]) == digests[0].hexdigest()
    assert (
        hash_files([one, two]) == hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()
    )
    assert hash_files([one, two]) != hash_files([two, one])
