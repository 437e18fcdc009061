import pytest
import torch

from lab.training.optimizers import DECAY, FLOOR, Shampoo, inverse_root


def test_the_root_is_that_of_the_formula():
    torch.manual_seed(0)
    rows = torch.randn(6, 9, dtype=torch.double)
    moments = rows.T @ rows
    floored = moments / moments.diagonal().mean() + FLOOR * torch.eye(9)
    root = inverse_root(moments)
    torch.testing.assert_close(root @ floored @ root, torch.eye(9, dtype=torch.double))
    torch.testing.assert_close(inverse_root(100 * moments), root)


def test_the_root_is_found_where_the_moments_are():
    assert inverse_root(torch.zeros(4, 4, device="meta")).is_meta


def test_steps_are_as_long_as_adams_and_in_the_preconditioned_direction():
    torch.manual_seed(0)
    gradients = torch.randn(4, 3, 8, dtype=torch.double) * torch.logspace(-3, 0, 8)
    rows, twin = (torch.nn.Parameter(torch.zeros(3, 8, dtype=torch.double)) for _ in range(2))
    optimizer, adam = Shampoo([{"params": [rows], "lr": 0.1}]), torch.optim.Adam([twin], lr=0.1, eps=0)
    mean, moments = torch.zeros(3, 8, dtype=torch.double), torch.zeros(8, 8, dtype=torch.double)
    for gradient in gradients:
        before, there = rows.detach().clone(), twin.detach().clone()
        rows.grad, twin.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        adam.step()
        mean = 0.9 * mean + 0.1 * gradient
        moments = DECAY * moments + (1 - DECAY) * gradient.T @ gradient
        step, as_long = before - rows.detach(), (there - twin.detach()).norm()
        direction = mean @ inverse_root(moments)
        torch.testing.assert_close(step, direction * as_long / direction.norm())


@pytest.mark.parametrize("optimizer", [Shampoo, torch.optim.Adam])
def test_it_goes_down_a_turned_valley_faster_than_adam(optimizer):
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(16, 16)).Q
    steepness = turn @ torch.diag(torch.logspace(-3, 0, 16)) @ turn.T
    rows = torch.nn.Parameter(torch.ones(2, 16))
    stepper = optimizer([{"params": [rows], "lr": 0.05}])
    for _ in range(200):
        stepper.zero_grad()
        loss = (rows @ steepness * rows).sum()
        loss.backward()
        stepper.step()
    assert (loss < 1e-3) == (optimizer is Shampoo), loss


def test_nothing_moves_without_a_gradient():
    rows, other = (torch.nn.Parameter(torch.ones(2, 4)) for _ in range(2))
    optimizer = Shampoo([{"params": [rows, other], "lr": 0.1}])
    rows.grad = torch.zeros(2, 4)
    optimizer.step()
    assert torch.equal(rows, torch.ones(2, 4)) and torch.equal(other, torch.ones(2, 4))
