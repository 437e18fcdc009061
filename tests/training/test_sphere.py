import pytest
import torch
import torch.nn.functional as F

from lab.training.optimizers import KAPPA, Sphere


def stepped(rows, gradients, rate=0.01):
    rows = torch.nn.Parameter(rows.clone())
    optimizer = Sphere([{"params": [rows], "lr": rate}])
    for gradient in gradients:
        rows.grad = gradient.clone()
        optimizer.step()
    return rows.detach()


def test_a_step_is_that_of_the_formula():
    torch.manual_seed(0)
    rows, gradient = torch.randn(2, 3, 16, dtype=torch.double)
    found = stepped(rows, [gradient], rate=0.01)
    for before, slope, after in zip(rows, gradient, found, strict=True):
        m = before.norm()
        v = (before / m).requires_grad_()
        # the posterior's gradient, by autograd: the loss is linear in e = m v, and the prior is centred at v
        (m * v @ slope - KAPPA * v @ (before / m)).backward()
        tangent = v.grad - (v.grad @ v) * v
        v = v.detach() - 0.01 * 16**0.5 / m * tangent.detach() / tangent.detach().norm()
        torch.testing.assert_close(after, m * v / v.norm())


def test_norms_stay_and_the_prior_draws_back_to_where_vectors_began():
    torch.manual_seed(0)
    rows = torch.randn(3, 16, dtype=torch.double)
    away = stepped(rows, [torch.randn(3, 16, dtype=torch.double)], rate=0.1)
    torch.testing.assert_close(away.norm(dim=1), rows.norm(dim=1))
    push, little = torch.randn(3, 16, dtype=torch.double), torch.full((3, 16), 1e-12, dtype=torch.double)
    back = stepped(rows, [push, *[little] * 40], rate=0.1)
    away = stepped(rows, [push], rate=0.1)
    assert (F.cosine_similarity(back, rows) > F.cosine_similarity(away, rows)).all()


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_how_long_a_gradient_is_does_not_count(scale):
    torch.manual_seed(0)
    rows, gradient = torch.randn(2, 3, 16, dtype=torch.double)
    angle = F.cosine_similarity(stepped(rows, [gradient * scale], rate=0.01), rows).acos()
    torch.testing.assert_close(angle.tan(), 0.01 * 4 / rows.norm(dim=1), atol=1e-5, rtol=1e-3)


def test_nothing_moves_without_a_gradient():
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stepped(rows, [torch.zeros(3, 16)] * 5), rows)
