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


def bytes_of(bundle, unet_bytes):
    """The size of a model in memory: text encoders and VAE in float32."""
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (bundle.unet, bundle.vae)]
    texts = sum(weight.numel() for tower in bundle.towers for weight in tower.encoder.parameters())
    return sizes[0] * unet_bytes + 4 * (sizes[1] + texts)


def test_a_model_larger_than_the_memory_is_refused_before_it_is_read(sdxl, sdxl_folder, monkeypatch):
    whole, half = bytes_of(sdxl, 4), bytes_of(sdxl, 2)
    monkeypatch.setattr("lab.models.load.read_folder", lambda *_: pytest.fail("it was read"))
    monkeypatch.setattr("lab.models.load.free_memory", lambda _: whole - 1)
    with pytest.raises(
        InputError, match=r"takes .* in float32, and .* is free; it fits with --dtype bfloat16"
    ):
        load(sdxl_folder, device="cpu")
    monkeypatch.setattr("lab.models.load.free_memory", lambda _: half - 1)
    with pytest.raises(InputError, match="take a smaller one, or free some memory"):
        load(sdxl_folder, device="cpu")


def test_what_just_fits_is_loaded(sdxl, sdxl_folder, monkeypatch):
    monkeypatch.setattr("lab.models.load.free_memory", lambda _: bytes_of(sdxl, 4))
    load(sdxl_folder, device="cpu")


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_what_is_freed_goes_back_before_and_after_weights_are_laid_out(error, sd1_folder, monkeypatch):
    """glibc keeps it else, in pieces between the weights; other C libraries have no such function."""
    asked = []

    def library(name):
        asked.append("back")
        raise error

    monkeypatch.setattr("lab.models.device.ctypes.CDLL", library)
    monkeypatch.setattr("lab.models.load.arrange_modules", lambda bundle: asked.append("laid out"))
    load(str(sd1_folder), device="cpu")
    assert asked == ["back", "laid out", "back"]
