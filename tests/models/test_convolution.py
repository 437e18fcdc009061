import copy

import pytest
import torch
from torch import nn

from lab.models import unet
from lab.models.load import load
from lab.models.unet import MAX_POSITIONS, MatrixConv2d, use_matrix_products

KINDS = {
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "1 x 1": {"kernel_size": 1, "bias": False},
    "stride": {"kernel_size": 3, "padding": 1, "stride": 2},
    "no zeros": {"kernel_size": 3},
}


@pytest.fixture(autouse=True)
def few_weights_pay(monkeypatch):
    monkeypatch.setattr(unet, "MIN_WEIGHTS", 1)


@pytest.fixture
def products(monkeypatch) -> list[torch.Size]:
    """Shapes of the inputs that a matrix product was used for, as they come."""
    shapes: list[torch.Size] = []
    apply = unet.Im2col.apply
    monkeypatch.setattr(unet.Im2col, "apply", lambda x, *rest: shapes.append(x.shape) or apply(x, *rest))
    return shapes


def frozen(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.1)
    use_matrix_products(layer)
    return layer.requires_grad_(False).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(1, 24, 4, 4), (3, 24, 8, 6), (2, 24, 5, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_the_convolutions(kind, shape, products):
    plain = nn.Conv2d(24, 40, **KINDS[kind])
    layer, exact = frozen(plain), copy.deepcopy(plain).double()
    exact.__class__ = nn.Conv2d
    x = torch.randn(shape).requires_grad_()
    twice = x.detach().double().requires_grad_()
    output, expected = layer(x), exact(twice)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    assert products == [x.shape]
    assert torch.allclose(output.double(), expected, atol=1e-5)
    assert torch.allclose(x.grad.double(), twice.grad, atol=1e-5)


def test_gradients_are_finite_differences():
    layer = frozen(nn.Conv2d(3, 4, 3, padding=1, stride=2).double())
    x = torch.randn(2, 3, 5, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


def test_bfloat16_too(products):
    layer = frozen(nn.Conv2d(24, 40, 3, padding=1))
    x = torch.randn(1, 24, 8, 8).bfloat16().requires_grad_()
    expected = layer(x.detach().float())
    output = layer.bfloat16()(x)
    output.float().sum().backward()
    assert len(products) == 2
    assert torch.allclose(output.float(), expected, atol=0.05)
    assert x.grad.dtype == torch.bfloat16


def test_weights_that_learn_do_so(products):
    layer = frozen(nn.Conv2d(24, 40, 3, padding=1)).requires_grad_(True)
    layer(torch.randn(1, 24, 4, 4)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    assert not products
    with torch.no_grad():
        layer(torch.randn(1, 24, 4, 4))
    assert products


def test_many_places_few_weights_and_other_precisions_are_left_to_the_plain_convolution(
    products, monkeypatch
):
    layer, x = frozen(nn.Conv2d(24, 40, 1)), torch.randn(1, 24, 4, 4)
    layer(torch.randn(1, 24, 1, MAX_POSITIONS + 1))
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    monkeypatch.setattr(unet, "MIN_WEIGHTS", layer.weight.numel() + 1)
    layer(x)
    assert not products
    monkeypatch.setattr(unet, "MIN_WEIGHTS", layer.weight.numel())
    layer(torch.randn(1, 24, 1, MAX_POSITIONS))
    assert products


@pytest.mark.parametrize(
    "unusual",
    [{"groups": 2}, {"dilation": 2}, {"padding": "same"}, {"padding": (0, 1)}, {"padding_mode": "circular"}],
)
def test_unusual_convolutions_stay_plain(unusual):
    layer = nn.Conv2d(4, 4, 3, **unusual)
    use_matrix_products(layer)
    assert type(layer) is nn.Conv2d


def test_a_unet_on_a_cpu_uses_them_and_stays_what_it_is(sd1_folder, products):
    unet = load(sd1_folder, device="cpu").unet
    plain = type(unet).from_config(unet.config)
    plain.load_state_dict(unet.state_dict())
    inputs = torch.randn(2, 4, 8, 8), torch.tensor(500), torch.randn(2, 77, unet.config.cross_attention_dim)
    with torch.no_grad():
        expected = plain(*inputs).sample
        assert not products
        assert torch.allclose(unet(*inputs).sample, expected, atol=1e-5)
    assert len(products) == sum(isinstance(part, MatrixConv2d) for part in unet.modules()) > 0
