import torch

from lab.training.data import latents as module
from lab.training.data.latents import Latents
from lab.training.data.pictures import load_view, make_buckets, make_views, read_pictures


def make(bundle, config):
    pictures, _ = read_pictures(config, ["{name}"], make_buckets(32, 8, True))
    return Latents(bundle, pictures, make_views(pictures, config), config), pictures


def test_mean_and_std_are_the_posteriors(sd1, config):
    latents, pictures = make(sd1, config)
    latents.encode_all()
    pixels, _ = load_view(pictures[0], make_views(pictures, config)[0], config)
    with torch.no_grad():
        posterior = sd1.vae.encode(pixels[None]).latent_dist
    scale = sd1.vae.config.scaling_factor
    torch.testing.assert_close(latents.get(0)["mean"], posterior.mean[0] * scale)
    torch.testing.assert_close(latents.get(0)["std"], posterior.std[0] * scale)


def test_a_folder_keeps_latents_by_content(sd1, sd2, changed, images, tmp_path, monkeypatch):
    config = changed(latents=tmp_path / "latents")
    first, _ = make(sd1, config)
    first.encode_all()
    expected = [first.get(index) for index in range(3)]
    (images / "toy-1.png").rename(images / "renamed.png")
    calls = []
    posterior = module.posterior
    monkeypatch.setattr(module, "posterior", lambda *given: calls.append(1) or posterior(*given))
    again, pictures = make(sd1, config)
    again.encode_all()
    assert not calls and pictures[0].path.name == "renamed.png"
    assert torch.equal(again.get(0)["mean"], expected[1]["mean"])
    for path in (tmp_path / "latents").iterdir():
        path.write_bytes(path.read_bytes()[:20])
        break
    again.encode_all()
    assert len(calls) == 1, "a file cut short is made again"
    make(sd1, config.model_copy(update={"background": "black"}))[0].encode_all()
    make(sd2, config)[0].encode_all()
    assert len(calls) == 7
