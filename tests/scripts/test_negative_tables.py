"""The tables that say whether negative embeddings help."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from lab.images import images_in
from lab.score.formulas import cmmd, diversity
from scripts.eval_negatives import STYLES, judged_clean, styles_right, threshold
from scripts.negative_tables import Found, cmmd_cell, diversity_of, pairs, share_left, verdict


@pytest.fixture
def features():
    """(2 conditions, 5 prompts, 4 seeds, 6) of unit length."""
    rows = np.random.default_rng(0).normal(size=(2, 5, 4, 6))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_diversity_is_the_metric_of_the_lab(features):
    expected = [float(diversity(torch.from_numpy(rows))) for rows in features[0]]
    np.testing.assert_allclose(diversity_of(features[0])[:, 0], expected)


def test_cmmd_is_the_metric_of_the_lab_and_its_interval_holds_it(features):
    references = features[1].reshape(-1, 6)
    first, other = (cmmd_cell(features, references, place) for place in (0, 1))
    value = float(cmmd(torch.from_numpy(features[0].reshape(-1, 6)), torch.from_numpy(references)))
    assert first == f"{value:.1f}" and other.startswith(f"0.0 ({-value:+.1f}, ")


def test_a_condition_is_told_by_its_paired_difference():
    table = np.zeros((2, 4, 3))
    table[1] = np.array([[0.2], [0.3], [0.2], [0.3]])
    assert pairs(table, 0) == "0.000" and pairs(table, 1) == "0.250 (+0.250, +0.149 to +0.351)"


def test_the_style_is_right_where_the_image_is_nearest_its_own_prompt():
    class Clip:
        def texts(self, texts):
            place = dict(zip(STYLES, torch.eye(3), strict=True))
            return torch.stack([place[next(style for style in STYLES if style in text)] for text in texts])

    prompts = ["a noto emoji", "a fluent emoji", "a twemoji emoji", "an emoji"]
    right = styles_right(Clip(), np.eye(3)[[0, 2, 2, 1]], prompts, STYLES)
    assert right[:3].tolist() == [1, 0, 1] and np.isnan(right[3])


def test_the_judge_is_set_on_clean_images(emoji, tmp_path):
    judge, clean = emoji.root / "judge_quality", images_in(Path("lab/assets/samples/owl"))
    blurred = [tmp_path / path.name for path in clean]
    for path, copy in zip(clean, blurred, strict=True):
        with Image.open(path) as image:
            image.convert("RGB").filter(ImageFilter.GaussianBlur(4)).save(copy)
    sharp, soft = (judged_clean(emoji, judge, files) for files in (clean, blurred))
    assert sharp.shape == (len(clean),) and (sharp < soft).all() and sharp.min() > 0 and soft.max() <= 1


def test_the_threshold_leaves_the_share_of_false_alarms_above_it():
    clean = np.random.default_rng(0).random(200)
    for alarms in (0.005, 0.05, 0.1):
        assert (clean > threshold(clean, alarms)).sum() == round(200 * alarms)


def test_what_is_left_beyond_false_alarms_is_the_ratio_of_what_is_truly_degraded():
    truly, alarms, found = np.array([0.4, 0.1]), 0.05, 0.8  # of the degraded, the share that is found
    called = truly * found + (1 - truly) * alarms
    empty, negative = (np.full((3, 4), share) for share in called)
    assert share_left(negative, empty, alarms) == pytest.approx(0.25)
    assert share_left(negative, empty, 0) == pytest.approx(called[1] / called[0])
    assert np.isnan(share_left(np.zeros(4), np.zeros(4), 0))


def test_a_verdict_names_what_is_left_at_every_threshold(features):
    judged = np.array([[0.2, 0.4, 0.6, 0.8], [0.1, 0.1, 0.1, 0.8], [0.1, 0.1, 0.5, 0.8]])[:, :, None].repeat(
        4, 2
    )
    values = {"judged": judged, "degraded": (judged > 0.3).astype(float), "clip_text": judged}
    found = Found(values, np.stack([features[0, :4], *features[:, :4]]))
    _, aims, elsewhere = verdict(found, ["empty", "words", "neg"], "neg", 0.05, {0.02: 0.7, 0.1: 0.15})
    assert aims.startswith("- neg: 0.67 of empty's degraded share, 0.64 beyond") and "words (+0.250," in aims
    assert elsewhere.endswith(": 1.00 (2.0%), 0.50 (10.0%)")
