from collections import Counter

import torch

from lab.training.data.examples import ExampleOrder
from lab.training.data.pictures import make_buckets, make_views, read_pictures
from tests.training.drawings import draw


def make(config, buckets=None, timesteps=1000):
    config = config.model_copy(update={"name": "x"})
    lines = ["{name}", "a {name}", "b {name}"]
    pictures, _ = read_pictures(config, lines, buckets or make_buckets(32, 8, True))
    views = make_views(pictures, config)
    return ExampleOrder(pictures, views, config, ["x"], timesteps), pictures, views


def test_a_step_is_a_function_of_seed_and_step(config):
    one, other = make(config)[0], make(config)[0]
    later = [other.batch(step) for step in (5, 3, 0)]
    assert later == [one.batch(step) for step in (5, 3, 0)]
    assert one.batch(3) != one.batch(4)
    assert make(config.model_copy(update={"seed": 1}))[0].batch(3) != one.batch(3)
    example = one.batch(3)[0]
    assert torch.equal(one.noise(example, (2, 3)), other.noise(example, (2, 3)))
    assert not torch.equal(one.noise(example, (2, 3)), one.noise(one.batch(3)[1], (2, 3)))


def test_every_picture_comes_once_an_epoch(changed, tmp_path):
    examples, pictures, _ = make(changed(images=draw(tmp_path / "many", 8), batch_size=4))
    for epoch in range(3):
        seen = Counter(example.view for step in (0, 1) for example in examples.batch(2 * epoch + step))
        assert seen == Counter(range(len(pictures)))


def test_a_batch_has_one_bucket_and_small_buckets_are_filled_up(changed, tmp_path):
    folder = draw(tmp_path / "mixed", 5)
    draw(folder / "wide", 2, (64, 32))
    for path in (folder / "wide").iterdir():
        path.rename(folder / f"wide-{path.name}")
    examples, pictures, views = make(changed(images=folder, batch_size=4))
    for step in range(9):
        batch = examples.batch(step)
        assert len(batch) == 4 and len({views[example.view].bucket for example in batch}) == 1
    assert {example.view for step in range(3) for example in examples.batch(step)} == set(
        range(len(pictures))
    )


def test_timesteps_are_spread_over_the_batch_and_uniform_in_all(changed):
    examples, *_ = make(changed(batch_size=4, timesteps=(100, 900)))
    for step in range(20):
        quarters = [(example.timestep - 100) // 200 for example in examples.batch(step)]
        assert quarters == [0, 1, 2, 3]
    drawn = torch.tensor([e.timestep for step in range(500) for e in examples.batch(step)]).float()
    assert abs(drawn.mean() - 500) < 10 and drawn.min() < 110 and drawn.max() >= 890


def test_fixed_examples_stay_the_same_and_cover_pictures_and_timesteps(config):
    examples, *_ = make(config)
    fixed = examples.fixed()
    assert fixed == examples.fixed() and len(fixed) == config.evaluate_on
    assert {example.view for example in fixed} == {0, 1, 2}
    assert [example.timestep * 4 // 1000 for example in fixed] == [0, 1, 2, 3]


def test_captions_of_a_run_are_all_known_beforehand(changed, images):
    for path in images.glob("*.png"):
        path.with_suffix(".txt").write_text("a, b, c, <x>, d")
    examples, *_ = make(changed(shuffle_tags=True, tag_dropout=0.3))
    known = examples.captions(30)
    used = {example.caption for step in range(30) for example in examples.batch(step)}
    assert used | {example.caption for example in examples.fixed()} == set(known)
