"""The autoencoder: grown from a smaller one, sharpened against a discriminator, and measured."""

import pytest
import torch
from torch.nn import functional as F

from scripts.pretrain import vae
from scripts.pretrain.adversary import Patches, Perception, edges, sharpness_loss
from scripts.pretrain.clip import Sight
from scripts.pretrain.draws import shifted, windows


def settings(widths: list[int], latents: int) -> dict:
    return {"widths": widths, "latent_channels": latents, "groups": 1}


@pytest.fixture
def small(tmp_path):
    """An autoencoder that is not linear, as after training, and the folder it lies in."""
    torch.manual_seed(0)
    found = vae.build(settings([4, 8], 4))
    for weight in found.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    found.save_pretrained(tmp_path)
    return found.eval(), tmp_path


@pytest.mark.parametrize(("widths", "latents"), [([4, 8], 4), ([4, 8], 8), ([8, 16], 4), ([8, 16], 6)])
def test_a_grown_autoencoder_computes_what_the_small_one_did(small, monkeypatch, widths, latents):
    old, folder = small
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    new = vae.build(settings(widths, latents)).eval()
    vae.begin(new, folder)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before, after = old.encode(x).latent_dist, new.encode(x).latent_dist
        assert torch.allclose(after.mean[:, :4], before.mean, atol=1e-4)
        assert torch.allclose(after.logvar[:, :4], before.logvar, atol=1e-4)
        assert torch.allclose(new.decode(after.mean).sample, old.decode(before.mean).sample, atol=1e-4)


def test_new_latents_see_the_image(small):
    _, folder = small
    new = vae.build(settings([4, 8], 8)).eval()
    vae.begin(new, folder)
    with torch.no_grad():
        mean = new.encode(torch.rand(2, 3, 32, 32)).latent_dist.mean
    assert (mean[:, 4:].std((0, 2, 3)) > 0).all()


def test_decoder_and_discriminator_each_learn_from_their_own_part():
    torch.manual_seed(0)
    patches, output = Patches((4, 4, 8, 8)), torch.rand(2, 3, 32, 32, requires_grad=True)
    target = torch.rand(2, 3, 32, 32)
    weights = {"adversary": 0.0, "matching": 0.0}
    sharpness_loss(patches, output, target, weights).backward()
    assert output.grad.abs().max() == 0  # nothing of the discriminator's own loss reaches the decoder
    assert patches.score.weight.grad.abs().max() > 0
    own = patches.score.weight.grad.clone()
    patches.zero_grad()
    sharpness_loss(patches, output, target, {"adversary": 5.0, "matching": 5.0}).backward()
    assert output.grad.abs().max() > 0
    assert torch.allclose(patches.score.weight.grad, own, atol=1e-3)


def test_patches_count_by_the_edges_they_hold():
    image = torch.full((1, 3, 64, 64), -1.0)
    image[..., 32:] = 1
    counts = edges(image)[0, 0]
    assert counts.shape == (16, 16)
    assert counts.mean() == pytest.approx(1)
    assert counts[:, 7:9].min() > 20 * counts[:, :6].max()


def test_perception_tells_images_apart_and_leaves_its_tower_alone():
    torch.manual_seed(0)
    sight = Sight(8, 3)
    perception = Perception(sight)
    x, y = torch.rand(2, 1, 3, 64, 64).requires_grad_()
    assert perception(x, x).item() == 0
    assert perception(x, y).item() > 0
    assert not any(p.requires_grad for p in sight.body.parameters())


def test_blur_is_soft_and_a_clean_edge_is_not():
    crisp = torch.full((1, 3, 64, 64), -1.0)
    crisp[..., 20:40, 20:40] = 1
    assert vae.softness(crisp) == 0
    assert vae.softness(F.avg_pool2d(crisp, 9, 1, 4)) > 0.9


def test_windows_are_where_their_corners_say():
    images = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)
    found = windows(images, torch.tensor([[1, 2], [4, 0]]), 4)
    assert torch.equal(found[0], images[0, :, 1:5, 2:6])
    assert torch.equal(found[1], images[1, :, 4:8, 0:4])


def test_shifted_images_stay_within_reach():
    image = torch.zeros(40, 1, 16, 16)
    image[..., 8, 8] = 1
    moved = shifted(image, 2, torch.Generator().manual_seed(0))
    places = moved.flatten(1).argmax(1)
    assert set((places // 16 - 8).tolist()) == set((places % 16 - 8).tolist()) == {-2, -1, 0, 1, 2}
