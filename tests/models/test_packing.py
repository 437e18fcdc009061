import copy

import psutil
import pytest
import torch
from torch import nn

from lab.models.load import load
from lab.models.packing import (
    MOST_PLACES,
    PackedConv2d,
    pack_convolutions,
    packed_size,
    unpack_convolutions,
)

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")

KINDS = {
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "1 x 1": {"kernel_size": 1, "bias": False},
    "stride": {"kernel_size": 3, "padding": 1, "stride": 2},
    "uneven": {"kernel_size": (3, 5), "padding": (0, 2)},
}


def packed(**kind) -> PackedConv2d:
    torch.manual_seed(0)
    layer = nn.Conv2d(24, 40, **kind).requires_grad_(False)
    pack_convolutions(layer)
    assert isinstance(layer, PackedConv2d)
    return layer


def kept(layer) -> dict:
    return vars(layer).get("_kept", {})


@pytest.mark.parametrize("shape", [(1, 24, 4, 4), (3, 24, 8, 6)])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_double_precision(kind, shape):
    layer, x = packed(**KINDS[kind]), torch.randn(shape).requires_grad_()
    exact = copy.deepcopy(layer).double()
    twice = x.detach().double().requires_grad_()
    output, expected = layer(x), exact(twice)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    assert set(kept(layer)) == ({"forth"} if kind == "stride" else {"forth", "back"})
    assert not kept(exact)
    assert torch.allclose(output.double(), expected, atol=1e-5)
    assert torch.allclose(x.grad.double(), twice.grad, atol=1e-5)


def test_bfloat16_is_packed_too():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16")
    layer, x = packed(kernel_size=3, padding=1), torch.randn(1, 24, 8, 8).bfloat16().requires_grad_()
    expected = layer(x.detach().float())
    output = layer.bfloat16()(x)
    output.float().sum().backward()
    assert set(kept(layer)) == {"forth", "back"}
    assert torch.allclose(output.float(), expected, atol=0.02)
    assert x.grad.dtype == torch.bfloat16


def test_earlier_calls_change_nothing():
    layer = packed(kernel_size=3, padding=1)
    small, large = torch.randn(1, 24, 4, 4), torch.randn(2, 24, 16, 16)
    first = layer(small)
    layer(large)
    assert torch.equal(layer(small), first)


def test_changed_weights_are_packed_anew():
    layer, x = packed(kernel_size=3, padding=1), torch.randn(1, 24, 4, 4)
    before = layer(x)
    layer.weight.mul_(2)
    layer.bias.mul_(2)
    assert torch.allclose(layer(x), 2 * before, atol=1e-5)
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight), requires_grad=False)
    assert torch.allclose(layer(x), layer.bias.view(1, -1, 1, 1).expand_as(before))


def test_weights_that_learn_are_not_packed():
    layer = packed(kernel_size=3, padding=1).requires_grad_(True)
    layer(torch.randn(1, 24, 4, 4)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    assert not kept(layer)


def test_many_places_are_left_to_the_plain_convolution():
    layer = packed(kernel_size=1)
    layer(torch.randn(1, 24, 1, MOST_PLACES + 1))
    assert not kept(layer)
    layer(torch.randn(1, 24, 1, MOST_PLACES))
    assert kept(layer)


def test_copies_take_no_packed_weights_along_and_compute_the_same():
    layer, x = packed(kernel_size=3, padding=1), torch.randn(1, 24, 4, 4)
    output = layer(x)
    twin = copy.deepcopy(layer)
    assert not kept(twin)
    assert torch.equal(twin(x), output)


def test_the_size_is_what_is_kept():
    layer = nn.Sequential(packed(kernel_size=3, padding=1), nn.Conv2d(40, 40, 1, groups=2))
    pack_convolutions(layer)
    x = torch.randn(1, 24, 4, 4).requires_grad_()
    layer(x).sum().backward()
    assert packed_size(layer) == sum(weight.nbytes for _, weight in kept(layer[0]).values())


def test_a_unet_is_packed_as_asked_and_stays_what_it_is(sd1_folder):
    packed, plain = (load(sd1_folder, device="cpu", pack_weights=each).unet for each in (True, False))
    inputs = torch.randn(2, 4, 8, 8), torch.tensor(500), torch.randn(2, 77, packed.config.cross_attention_dim)
    layers = [part for part in packed.modules() if isinstance(part, nn.Conv2d)]
    assert {type(part) for part in layers} == {PackedConv2d}
    assert packed_size(plain) == 0
    assert packed.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        assert torch.allclose(packed(*inputs).sample, plain(*inputs).sample, atol=1e-5)
    assert all(kept(part) for part in layers)
    unpack_convolutions(packed)
    assert not any(kept(part) or isinstance(part, PackedConv2d) for part in packed.modules())


def test_a_unet_that_would_take_too_much_of_the_memory_is_not_packed(sd1_folder, monkeypatch):
    unet = load(sd1_folder, device="cpu").unet
    memory = psutil.virtual_memory()._replace(total=4 * packed_size(unet) - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert packed_size(unet) > 0
    assert packed_size(load(sd1_folder, device="cpu").unet) == 0
