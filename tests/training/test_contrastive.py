"""What CLIP sees in images, learned as vectors, and as where other objectives begin."""

import pytest
import torch
from PIL import Image

import lab
from lab.errors import InputError
from lab.training.prepare import describe_run, prepare


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Few words and steps, which take no time."""
    monkeypatch.setattr("lab.training.objectives.contrastive.INIT_STEPS", 20)
    monkeypatch.setattr("lab.training.objectives.contrastive.RIVALS", 64)


@pytest.fixture
def seen(changed, clip_folder):
    """A run of few steps by CLIP alone."""

    def config(**settings):
        usual = {"objective": "contrastive", "clip": clip_folder, "evaluate_on": 8, "batch_size": 4}
        return changed(**usual | settings)

    return config


def fixed_means(objective):
    with torch.no_grad():
        return torch.cat([objective.watch(group) for group in objective.fixed()]).mean(dim=0)


@pytest.mark.parametrize("given", [False, True])
def test_the_text_comes_nearer_to_the_images(sd1, seen, started, given, tmp_path, heard):
    against = tmp_path / "others" if given else None
    if against is not None:
        against.mkdir()
        for shade in (0, 90, 255):
            Image.new("RGB", (32, 32), (shade, shade, 0)).save(against / f"{shade}.png")
    config = seen(steps=30, against=against)
    objective, learned = started(sd1, config)
    loss, likeness = fixed_means(objective)
    embedding = lab.train(sd1, config, listener=heard)
    learned.restore({f"cat-toy/{key}": rows for key, rows in embedding.vectors.items()})
    after, nearer = fixed_means(objective)
    assert after < loss and (given or nearer > likeness)
    assert any("The text's CLIP cosine to the images is" in note for note in heard.notes)


def test_the_loss_is_that_of_telling_the_thing_among_words(sd1, seen, started):
    objective, learned = started(sd1, seen())
    (picks,) = objective.fixed()
    texts, cosines = objective._texts.cosines(learned.rows, picks)
    assert torch.allclose(texts.norm(dim=1), torch.ones(len(picks)))
    words = objective._texts._rivals @ objective._texts._images[[pick.image for pick in picks]].T
    scale = objective._texts._clip.scale
    pos, neg = (scale * cosines).exp(), (scale * words).exp().sum(dim=0)
    assert torch.allclose(objective.losses(picks), -(pos / (pos + neg)).log(), rtol=1e-4)


def test_the_images_of_a_step_may_be_told_from_each_other(sd1, seen, started, heard, images):
    for number, path in enumerate(sorted(images.glob("*.png"))):
        path.with_suffix(".txt").write_text(f"a {{name}}\nthe {{name}} {number}")
    config = seen(in_batch=True, batch_size=6, steps=20)
    objective, learned = started(sd1, config)
    (picks,) = objective.fixed()
    assert any(len(pick.others) > 1 for pick in picks)
    texts, cosines = objective._texts.cosines(learned.rows, picks)
    features, scale = objective._texts._images, objective._texts._clip.scale
    own = features[[pick.image for pick in picks]]
    pos, words = (scale * cosines).exp(), (scale * own @ objective._texts._rivals.T).exp().sum(dim=1)
    each = (scale * texts @ features.T).exp()
    others = torch.stack([row[list(pick.others)].sum() for row, pick in zip(each, picks, strict=True)])
    losses = objective.losses(picks)
    assert torch.allclose(losses, -(pos / (pos + words + others)).log(), rtol=1e-4)
    parts = [objective.losses(picks[:3]), objective.losses(picks[3:])]
    assert torch.allclose(losses, torch.cat(parts), rtol=1e-4), "whatever share of them a process has"
    shared = [pick for pick in picks if objective._contexts[pick.context] == "a <cat-toy>"]
    assert shared and not any(pick.others for pick in shared), "a caption of all tells none from the others"
    assert "words and each other" in next(describe_run(sd1, config))
    before = losses.mean()
    embedding = lab.train(sd1, config, listener=heard)
    learned.restore({f"cat-toy/{key}": rows for key, rows in embedding.vectors.items()})
    assert objective.losses(picks).mean() < before


def test_other_objectives_may_begin_there(sd1, changed, clip_folder, seen, started):
    near = prepare(sd1, changed(init="contrastive", clip=clip_folder))
    (beginning,) = near.learned.beginnings.values()
    assert beginning.initial.origins[0].endswith(", by its images")
    losses = []
    for init in ("auto", "contrastive"):
        objective, _ = started(sd1, seen(init=init, templates=["{name}", "a {name}"]))
        losses.append(float(fixed_means(objective)[0]))
    assert losses[1] < losses[0]


def test_a_dry_run_says_what_would_be_compared(sd1, seen):
    assert "told from 64 words" in next(describe_run(sd1, seen()))


def test_what_cannot_be_seen_is_refused(sd1, sdxl, seen, changed, clip_folder):
    for bundle, config, said in (
        (sd1, seen(images=None), "give a folder with --images"),
        (sd1, seen(clip=None), "give --clip FOLDER"),
        (sdxl, seen(), "has to be the one of"),
        (sd1, seen(templates=["{name} with {words}"]), "lines with {name} and without {words}"),
        (sd1, seen(in_batch=True), "captions of their own"),
        (sd1, seen(templates=["a photo of {it}"]), "lines with {name} and without {words}"),
        (sd1, changed(init="contrastive"), "give --clip FOLDER"),
        (
            sd1,
            changed(objective="text", text="a", images=None, init="contrastive", vectors=1, evaluate_on=8),
            "there are none",
        ),
    ):
        with pytest.raises(InputError, match=said):
            prepare(bundle, config)
