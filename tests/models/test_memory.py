import pytest

from lab.errors import InputError
from lab.models.load import load


def test_vae_slicing_and_tiling_are_switched_on(sd1_folder, sd1):
    assert (sd1.vae.use_slicing, sd1.vae.use_tiling) == (False, False)
    vae = load(sd1_folder, device="cpu", vae_slicing=True, vae_tiling=True).vae
    assert (vae.use_slicing, vae.use_tiling) == (True, True)


def test_compilation_keeps_the_unet_what_it_is(sd1_folder, sd1):
    unet = load(sd1_folder, device="cpu", compile=True).unet
    assert unet._compiled_call_impl is not None
    assert type(unet) is type(sd1.unet)
    assert unet.state_dict().keys() == sd1.unet.state_dict().keys()


def test_compilation_without_a_compiler_is_refused(sd1_folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler"):
        load(sd1_folder, device="cpu", compile=True)


def test_offloading_without_a_gpu_is_refused(sd1_folder):
    with pytest.raises(InputError, match="--cpu-offload"):
        load(sd1_folder, device="cpu", cpu_offload=True)
