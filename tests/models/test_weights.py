import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.errors import InputError
from lab.models.describe import describe
from lab.models.load import load
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


def in_two_files(folder, part, stem, variant=""):
    """Parts the weights of a part of a model as diffusers and transformers do with large ones."""
    whole = folder / part / f"{stem}.safetensors"
    tensors, files = load_file(whole), {}
    for place in (0, 1):
        name = f"{stem}{variant}-0000{place + 1}-of-00002.safetensors"
        half = dict(list(tensors.items())[place::2])
        save_file(half, folder / part / name, {"format": "pt"})
        files |= dict.fromkeys(half, name)
    index = {"metadata": {"total_size": whole.stat().st_size}, "weight_map": files}
    (folder / part / f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(index))
    whole.unlink()


@pytest.mark.parametrize(("part", "stem"), [("unet", "diffusion_pytorch_model"), ("text_encoder", "model")])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_weights_in_several_files(part, stem, variant, sd1, tmp_path):
    folder = shutil.copytree(sd1.root, tmp_path / "model")
    in_two_files(folder, part, stem, variant)
    bundle = load(folder, device="cpu", variant=variant[1:] or None)
    for ours, theirs in ((bundle.unet, sd1.unet), (bundle.towers[0].encoder, sd1.towers[0].encoder)):
        assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in ours.state_dict().items())
    assert describe(str(folder), variant=variant[1:] or None).parameters == describe(sd1.source).parameters
    (folder / part / f"{stem}{variant}-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=rf"{part}.*{stem}{variant}-00002-of-00002") as raised:
        load(folder, device="cpu", variant=variant[1:] or None)
    assert "\n" not in str(raised.value)


def test_the_plain_weights_count_where_others_lie_beside_them(sd1, tmp_path):
    folder = shutil.copytree(sd1.root, tmp_path / "model")
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    others = {name: torch.zeros_like(tensor).half() for name, tensor in load_file(plain).items()}
    for variant in ("fp16", "non_ema"):
        save_file(others, plain.with_name(f"diffusion_pytorch_model.{variant}.safetensors"), {"format": "pt"})
    assert load(folder, device="cpu").hash == sd1.hash
    assert not load(folder, device="cpu", variant="fp16").unet.conv_in.weight.any()
