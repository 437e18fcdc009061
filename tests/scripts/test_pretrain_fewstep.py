"""The few-step stage: what it learns are the ends of the teacher's trajectories, from any point of them."""

from types import SimpleNamespace

import pytest
import torch

from scripts.pretrain.fewstep import EndObjective, Trajectories, between, known_captions
from scripts.pretrain.unet import scheduler, trajectory

CONFIG = {"batch": 16, "first": 0.25, "huber": 0.01}


def drawn(end, noise, steps=10):
    """The trajectory of a teacher that predicts the same image and noise at every step, by diffusers' own DDIM."""

    def teacher(noisy, t, encoder_hidden_states):
        image, e = torch.cat([end] * 2), torch.cat([noise] * 2)
        return SimpleNamespace(sample=scheduler().get_velocity(image, e, t.expand(len(noisy))))

    teacher.parameters = lambda: iter([torch.zeros(1)])
    states = torch.zeros(1, 77, 4)
    found = trajectory(teacher, states, states[0], steps, guidance=4.0, rescale=0.5, noise=noise)
    return Trajectories(torch.tensor([0]), torch.stack(found, dim=1).half())


@pytest.fixture
def both():
    return torch.randn(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0)).unbind()


def test_a_step_passes_what_lies_between_its_ends(both):
    image, noise = both
    left, middle, right = (torch.cos(a) * image + torch.sin(a) * noise for a in torch.tensor([1.4, 1.1, 0.6]))
    torch.testing.assert_close(between(left, right, tuple(torch.tensor([1.4, 0.6, 1.1]))), middle)


def test_who_knows_where_trajectories_end_has_no_loss(both):
    image, noise = both
    rows = drawn(image, noise)
    torch.testing.assert_close(rows.latents[:, -1].float(), image, atol=2e-3, rtol=2e-3)
    seen = []

    def knowing(noisy, steps, states):
        seen.append(steps)
        return SimpleNamespace(
            sample=scheduler().get_velocity(image.expand(noisy.shape), noise.expand(noisy.shape), steps)
        )

    encoded = SimpleNamespace(states=torch.zeros(2, 77, 4))
    objective = EndObjective(knowing, encoded, lambda states: states, rows, CONFIG)
    generator = torch.Generator().manual_seed(1)
    assert objective(generator, None) < 1e-3
    assert (seen[0][:4] == 999).all() and 0 < seen[0].min() < 999
    objective.unet = lambda noisy, steps, states: SimpleNamespace(sample=torch.zeros_like(noisy))
    assert objective(generator, None) > 0.1


def test_captions_are_those_of_what_the_teacher_learnt_from():
    scene = SimpleNamespace(degradation="", said="", objects=[SimpleNamespace(name="x")])
    data = SimpleNamespace(
        scenes=[scene] * 3,
        uses=["train", "extra", "train"],
        split=SimpleNamespace(objects=()),
        indices=lambda *uses: [0, 1, 2],
    )
    known = known_captions(SimpleNamespace(per_scene=2), data, {"silent": 1, "extra": 2})
    assert known.tolist() == [0, 1, 6, 7]  # the emoji in between is shown twice
