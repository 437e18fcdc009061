"""Every metric of the table: in its range, differentiable where it says so, and refused where it cannot run."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lab
from lab.score.config import ScoreOptions
from lab.score.metrics import METRICS, choose_metrics
from lab.score.tools import LAION_WIDTHS, Batch, Dino, Tools, open_tools, read_aesthetic
from tests.tiny_clip import make_dino

WIDTHS = [8, 8]


def classifier(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip


@pytest.fixture(scope="module")
def quality_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "quality"
    folder.mkdir()
    save_file(classifier().state_dict(), folder / "model.safetensors")
    config = {
        "widths": WIDTHS,
        "labels": ["clean", "blurry", "noisy"],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "size": 32,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def head_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads") / "head.safetensors"
    save_file({"weight": torch.linspace(-1, 1, 24)[None], "bias": torch.tensor([5.0])}, path)
    return path


@pytest.fixture(scope="module")
def tools(sd1, clip_folder, quality_folder, head_file, tmp_path_factory) -> Tools:
    references = tmp_path_factory.mktemp("references")
    for seed in (1, 2):
        lab.generate(sd1, prompt="a cat", seeds=seed, steps=1)[0].image.save(references / f"{seed}.png")
    dino = make_dino(tmp_path_factory.mktemp("dino"))
    options = ScoreOptions(
        references=references,
        clip=clip_folder,
        pickscore=clip_folder,
        hpsv2=clip_folder,
        dino=dino,
        aesthetic=head_file,
        between=["a cat", "a dog"],
    )
    return open_tools(replace(sd1, root=quality_folder.parent), options)


@pytest.mark.parametrize("name", METRICS)
def test_values_gradients_and_range(name, tools, pixels):
    metric = METRICS[name]
    pixels = pixels.clone().requires_grad_()
    batch = Batch(tools, pixels, ["a cat", "a dog", "red", "green apple"], baseline=pixels.detach().flip(0))
    values = metric.compute(batch)
    assert values.shape == (() if metric.over != "image" else (4,))
    assert (values >= metric.low - 1e-5).all() and (values <= metric.high + 1e-5).all()
    assert metric.label and metric.unit and metric.source
    assert metric.differentiable
    values.sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0


def test_batches_do_not_change_values(tools, pixels):
    texts = ["a cat", "a dog", "red", "green apple"]
    for name, metric in METRICS.items():
        if metric.over == "image":
            together = metric.compute(Batch(tools, pixels, texts, baseline=pixels.flip(0)))
            alone = [
                metric.compute(
                    Batch(tools, pixels[i : i + 1], texts[i : i + 1], baseline=pixels.flip(0)[i : i + 1])
                )
                for i in range(4)
            ]
            torch.testing.assert_close(torch.cat(alone), together, atol=1e-3, rtol=1e-4, msg=name)


def test_an_image_is_most_like_itself(tools, pixels):
    batch = Batch(tools, pixels, baseline=pixels)
    for name in ("clip_baseline", "ssim_baseline"):
        torch.testing.assert_close(METRICS[name].compute(batch), torch.ones(4))


def test_a_folder_and_a_text_have_nothing_between_them(sd1, clip_folder, tmp_path):
    options = ScoreOptions(clip=clip_folder, between=["a cat", str(tmp_path)], metrics=["clip_between"])
    with pytest.raises(lab.InputError, match="one is a folder, so both have to be"):
        open_tools(sd1, options)


def test_between_is_how_much_nearer_the_second_is(sd1, clip, clip_folder, pixels):
    options = ScoreOptions(clip=clip_folder, between=["a cat", "a dog"], metrics=["clip_between"])
    to_cat, to_dog = (clip.images(pixels) @ clip.texts(["a cat", "a dog"]).T).unbind(dim=1)
    found = METRICS["clip_between"].compute(Batch(open_tools(sd1, options), pixels))
    torch.testing.assert_close(found, to_dog - to_cat)


def test_degraded_is_what_is_not_clean(tools, pixels):
    resized = nn.functional.interpolate(pixels, (32, 45), mode="bilinear", antialias=True)[..., 6:38]
    expected = 1 - classifier()(resized * 2 - 1).softmax(dim=1)[:, 0]
    torch.testing.assert_close(METRICS["degraded"].compute(Batch(tools, pixels)), expected, atol=1e-5, rtol=0)


def test_linear_aesthetic_head(tools, clip, pixels):
    expected = clip.images(pixels) @ torch.linspace(-1, 1, 24) + 5
    torch.testing.assert_close(METRICS["aesthetic"].compute(Batch(tools, pixels)), expected)


def test_laions_five_layers(clip, pixels, tmp_path):
    layers = [nn.Linear(*sizes) for sizes in zip((24, *LAION_WIDTHS), LAION_WIDTHS, strict=False)]
    names = ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7")
    state = {f"{n}.{k}": v for n, m in zip(names, layers, strict=True) for k, v in m.state_dict().items()}
    torch.save(state, tmp_path / "sac.pth")
    features = clip.images(pixels)
    torch.testing.assert_close(
        read_aesthetic(tmp_path / "sac.pth", clip)(features), nn.Sequential(*layers)(features)
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, "8 wide"),
        ({"weight": torch.zeros(3, 24), "bias": torch.zeros(3)}, "no aesthetic head"),
        ({"other": torch.zeros(3)}, "no aesthetic head"),
    ],
)
def test_other_heads_are_one_line(clip, tmp_path, content, words):
    save_file(content, tmp_path / "head.safetensors")
    with pytest.raises(lab.InputError, match=words):
        read_aesthetic(tmp_path / "head.safetensors", clip)


def test_heads_never_run_code(clip, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"weight": Harmful()}, tmp_path / "head.pt")
    with pytest.raises(lab.InputError, match="cannot be read as tensors"):
        read_aesthetic(tmp_path / "head.pt", clip)
    assert not (tmp_path / "harm").exists()


def test_without_clip_only_pixels_are_judged_and_the_rest_says_why(sd1):
    chosen, reasons = choose_metrics([], open_tools(sd1, ScoreOptions()))
    assert chosen == ["ssim_baseline", "sharpness", "colourfulness"]
    assert "--clip" in reasons["clip_text"] and "--pickscore" in reasons["pickscore"]
    assert chosen + list(reasons) != [] and set(chosen) | set(reasons) == set(METRICS)


@pytest.mark.parametrize(
    ("name", "words"), [("clip_text", "--clip"), ("cmmd", "--clip|--references"), ("clip_txt", "clip_text")]
)
def test_what_cannot_run_is_refused(sd1, name, words):
    with pytest.raises(lab.InputError, match=words):
        choose_metrics([name], open_tools(sd1, ScoreOptions()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metrics": ["clip_txt"]}, "unknown metric 'clip_txt'; nearest: clip_text"),
        ({"metrics": ["cmmd"]}, "give a folder with --references"),
        ({"metrics": ["clip_between"]}, "give --between FROM --between TO"),
        ({"between": ["a cat"]}, "two texts or folders"),
        ({"metrics": ["pickscore"]}, "give its folder with --pickscore"),
        ({"metrics": ["hpsv2"]}, "give its folder with --hpsv2"),
        ({"metrics": ["dino_reference"]}, "give its folder with --dino"),
        ({"metrics": ["aesthetic"]}, "give its file with --aesthetic"),
        ({"references": "nowhere"}, "no such folder"),
        ({"aesthetic": "nowhere"}, "no such file"),
    ],
)
def test_what_can_never_run_is_told_with_the_options(settings, words):
    with pytest.raises(lab.InputError, match=words):
        ScoreOptions.build(settings)


def test_only_what_the_chosen_metrics_need_is_opened(emoji, monkeypatch):
    monkeypatch.setattr("lab.score.tools.open_clip", lambda *_: pytest.fail("CLIP was opened"))
    tools = open_tools(emoji, ScoreOptions(metrics=["sharpness", "degraded"]))
    assert tools.clip is None and tools.quality is not None
    assert choose_metrics(["sharpness", "degraded"], tools) == (["sharpness", "degraded"], {})
    assert open_tools(emoji, ScoreOptions(), metrics=["sharpness"]).quality is None


def test_the_bundles_own_clip(emoji):
    tools = open_tools(emoji, ScoreOptions())
    assert tools.clip is not None
    emoji_text = tools.clip.texts(["noto emoji of a red apple"])
    assert emoji_text.norm().item() == pytest.approx(1, abs=1e-5)


def test_dino_sees_a_subject_again(tmp_path):
    dino = Dino(make_dino(tmp_path / "dino"), torch.device("cpu"))
    pixels = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    features = dino.images(pixels)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(dino.images(pixels.clone()), features)
    assert (features[0] @ features[1]).item() < 1 - 1e-4


def test_a_folder_without_a_dino_is_refused_in_one_line(clip_folder, tmp_path):
    for folder in (clip_folder, tmp_path):
        with pytest.raises(lab.InputError) as told:
            Dino(folder, torch.device("cpu"))
        assert str(folder) in str(told.value)
