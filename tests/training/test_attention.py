"""Attention of things that are learned, held to their own places in the images."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

from lab.errors import InputError
from lab.images import read_pixels
from lab.models.attention import attention_recorded
from lab.models.patches import frozen
from lab.score.clip import open_clip
from lab.training.config import TrainConfig
from lab.training.learned import nearest_words
from lab.training.objectives.attention import outside, overlap
from lab.training.prepare import prepare
from tests.training.drawings import draw

CAPTION = "<cup> on a white cat, <owl>"


@pytest.fixture
def two(tmp_path):
    """Settings of a run on one folder, whose pictures show a cup on the left and an owl on the right."""
    folder = draw(tmp_path / "both", 2)
    for picture in list(folder.glob("*.png")):
        picture.with_suffix(".txt").write_text(CAPTION, encoding="utf-8")
        for name, left in (("cup", 0), ("owl", 16)):
            mask = Image.new("L", (32, 32))
            mask.paste(255, (left, 0, left + 16, 32))
            mask.save(folder / f"{picture.stem}.{name}.mask.png")
    usual = {"vectors": 2, "batch_size": 2, "preview_every": 0, "init": "text:red apple"}
    usual |= {"out": tmp_path / "run"}
    return usual | {"images": [f"cup={folder}", f"owl={folder}"]}


@pytest.fixture
def without_masks(two, tmp_path):
    for mask in (tmp_path / "both").glob("*.mask.png"):
        mask.unlink()
    return two


def part(objective, examples, weight):
    """(b,): what `keep_attention` adds to the losses, before its weight."""
    return (objective.losses(examples) - objective.errors(examples)) / weight


def maps_of(bundle, objective, example):
    """(77, 8, 8): the maps of a caption's rows, brought to the latents' size as heat maps are."""
    with torch.no_grad(), attention_recorded(bundle.unet) as recorder:
        objective.errors([example])
    whole = torch.zeros(77, 8, 8)
    for pixels, maps in recorder.pop_maps().items():
        grid = maps[0].unflatten(-1, (int(pixels**0.5),) * 2)[None]
        whole += torch.nn.functional.interpolate(grid, (8, 8), mode="bilinear")[0]
    return whole


def test_a_share_lies_outside_and_maps_share_what_both_have():
    left, right = torch.zeros(2, 2), torch.zeros(2, 2)
    left[:, 0], right[:, 1] = 3.0, 5.0
    assert outside(left, torch.ones(2, 2)) == 0 and outside(left, right / 5) == 1
    assert overlap(left, left * 7) == 1 and overlap(left, right) == 0
    assert overlap(torch.ones(2, 2), left) == 0.5
    assert overlap(torch.zeros(2, 2), left) == 0


def test_attention_outside_a_things_mask_counts(sd1, two, started):
    objective, _ = started(sd1, TrainConfig.build(two | {"keep_attention": 2.0}))
    (example, *_) = objective.batch(0)
    whole, places = maps_of(sd1, objective, example), {"cup": slice(0, 4), "owl": slice(4, 8)}
    shares = []
    for span in objective._encode.spans(CAPTION):
        if span.embedding:
            attention = whole[span.start : span.end].sum(dim=0)
            shares.append(1 - attention[:, places[span.embedding]].sum() / attention.sum())
    torch.testing.assert_close(part(objective, [example], 2.0)[0], torch.stack(shares).mean())


def test_without_masks_what_other_things_share_counts(sd1, without_masks, started):
    objective, _ = started(sd1, TrainConfig.build(without_masks | {"keep_attention": 2.0}))
    (example, *_) = objective.batch(0)
    whole = maps_of(sd1, objective, example)
    cup, owl = (
        whole[span.start : span.end].sum(dim=0) for span in objective._encode.spans(CAPTION) if span.embedding
    )
    shared = torch.minimum(cup / cup.sum(), owl / owl.sum()).sum()
    torch.testing.assert_close(part(objective, [example], 2.0)[0], shared)


def test_of_one_thing_what_the_other_words_share_counts(sd1, changed, started):
    objective, _ = started(sd1, changed(keep_attention=2.0, templates=["a {name} on a white cat"]))
    (example, *_) = objective.batch(0)
    whole = maps_of(sd1, objective, example)
    spans = objective._encode.spans("a <cat-toy> on a white cat")
    maps = [whole[span.start : span.end].sum(dim=0) for span in spans]
    own = next(one for one, span in zip(maps, spans, strict=True) if span.embedding)
    shared = [
        torch.minimum(own / own.sum(), one / one.sum()).sum()
        for one, span in zip(maps, spans, strict=True)
        if not span.embedding
    ]
    torch.testing.assert_close(part(objective, [example], 2.0)[0], torch.stack(shared).mean())


def test_its_gradient_lowers_it_and_reaches_the_vectors_alone(sd1, two, started):
    objective, learned = started(sd1, TrainConfig.build(two | {"keep_attention": 100.0}))
    examples, found = objective.batch(0), []
    descent = torch.optim.Adam(learned.parameters(), lr=0.05)
    for _ in range(4):
        descent.zero_grad()
        with frozen(sd1):
            shares = part(objective, examples, 100.0)
            shares.sum().backward()
        assert all((rows.grad.norm(dim=1) > 0).all() for rows in learned.parameters())
        found.append(shares.mean().item())
        descent.step()
    assert found[3] < found[2] < found[1] < found[0] < 1
    modules = [sd1.unet, sd1.vae, *(tower.encoder for tower in sd1.towers)]
    assert all(weight.grad is None for module in modules for weight in module.parameters())


def test_both_ways_to_compute_attention_are_seen_alike(sd1, two, started):
    objective, _ = started(sd1, TrainConfig.build(two | {"keep_attention": 1.0}))
    examples, before = objective.batch(0), sd1.unet.attn_processors
    with torch.no_grad():
        fused = objective.losses(examples)
        sd1.unet.set_attn_processor(AttnProcessor())
        try:
            plain = objective.losses(examples)
        finally:
            sd1.unet.set_attn_processor(before)
    torch.testing.assert_close(plain, fused)


def test_without_a_weight_nobody_looks(sd1, two, started, monkeypatch):
    monkeypatch.delattr("lab.training.objectives.denoising.attention_recorded")
    objective, _ = started(sd1, TrainConfig.build(two))
    examples = objective.batch(0)
    with torch.no_grad():
        assert torch.equal(objective.losses(examples), objective.errors(examples))


def test_each_thing_begins_at_words_of_its_own(sd1, two, clip_folder, tmp_path):
    config = TrainConfig.build(two | {"init": "auto", "clip": clip_folder})
    clip = open_clip(sd1, clip_folder)

    def begun():
        beginnings = prepare(sd1, config).learned.beginnings
        return [beginnings[name].initial.text.split() for name in ("cup", "owl")]

    pictures = [tmp_path / "both" / f"toy-{number}.png" for number in range(2)]
    halves = [
        [lambda path=path: read_pixels(path)[..., :16] for path in pictures],
        [lambda path=path: read_pixels(path)[..., 16:] for path in pictures],
    ]
    assert begun() == [nearest_words(sd1, clip, half)(2) for half in halves]
    for mask in (tmp_path / "both").glob("*.mask.png"):
        mask.unlink()
    words = nearest_words(sd1, clip, pictures)(4)
    assert begun() == [words[:2], words[2:]]


def test_masks_of_single_things_weigh_the_loss_together(sd1, two, started, tmp_path):
    objective, _ = started(sd1, TrainConfig.build(two))
    assert objective.data.latents.get(0)["weight"].eq(1).all()
    (tmp_path / "both" / "toy-0.owl.mask.png").unlink()
    without = prepare(sd1, TrainConfig.build(two)).objective
    without.data.latents.encode_all()
    assert "weight" not in without.data.latents.get(0), "the other thing is somewhere too"
    assert without.fingerprint() != objective.fingerprint()
    assert "masks: 2 of cup, 1 of owl" in list(without.describe())
    (tmp_path / "both" / "toy-0.cup.mask.png").rename(tmp_path / "both" / "toy-0.cub.mask.png")
    assert any(
        "left out: toy-0.cub.mask.png" in line
        for line in prepare(sd1, TrainConfig.build(two)).objective.skipped
    )
    Image.new("L", (16, 32)).save(tmp_path / "both" / "toy-0.owl.mask.png")
    with pytest.raises(InputError, match=r"toy-0\.owl\.mask\.png: another size than toy-0\.png"):
        prepare(sd1, TrainConfig.build(two))


def test_latents_that_are_kept_know_what_weighs_the_loss(sd1, two, tmp_path):
    """A mask of one thing weighs the loss where that thing is learned alone, and not beside another."""
    kept = two | {"latents": tmp_path / "latents"}
    (tmp_path / "both" / "toy-0.owl.mask.png").unlink()
    (tmp_path / "both" / "toy-0.txt").unlink()
    (tmp_path / "both" / "toy-1.txt").unlink()
    weighed = []
    for images in (two["images"][:1], two["images"]):
        objective = prepare(sd1, TrainConfig.build(kept | {"images": images})).objective
        objective.data.latents.encode_all()
        weighed.append("weight" in objective.data.latents.get(0))
    assert weighed == [True, False]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"objective": "style", "keep_attention": 1},
            "keep_attention: says nothing to .*style, but to concept",
        ),
        ({"keep_attention": 1, "gradient_checkpointing": True}, "gradient_checkpointing: hides what"),
        ({"keep_attention": 1, "compile": True}, "compile: hides what"),
    ],
)
def test_what_has_no_place_or_cannot_be_seen_is_told_in_a_line(sd1, changed, settings, told):
    with pytest.raises(InputError, match=told) as error:
        prepare(sd1, changed(**settings))
    assert "\n" not in str(error.value)
