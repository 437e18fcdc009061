"""Checks of training on the bundled model: half precision, resuming, the reward objective."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import lab
from lab.models.bundle import Bundle
from scripts.gpu.stand import Found, Stand

IMAGES = Path("lab/assets/samples/hot-dog")
PROMPTS = Path("configs/train/emoji-reward-prompts.txt")


def progress(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's progress.jsonl."""
    return [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]


def learn(bundle: Bundle, out: Path, **settings: Any) -> lab.Embedding:
    """One run on the drawings of a hot dog, without previews, over all its steps."""
    usual = {
        "images": IMAGES,
        "name": "my-snack",
        "objective": "concept",
        "vectors": 4,
        "init": "text:a thing",
        "preview_every": 0,
        "stop": "never",
        "out": out,
    }
    made = lab.train(bundle, lab.TrainConfig(**{**usual, **settings}))
    assert isinstance(made, lab.Embedding), "one name makes one embedding"
    return made


def training(stand: Stand, found: Found) -> None:
    """A thing in bfloat16: the loss on the fixed examples falls, and no GradScaler is made on the way."""
    bundle, out = stand.emoji(dtype="bfloat16"), stand.out("training")
    made = 0
    original = torch.amp.GradScaler.__init__

    def counted(*args: Any, **kwargs: Any) -> None:
        nonlocal made
        made += 1
        original(*args, **kwargs)

    torch.amp.GradScaler.__init__ = counted  # type: ignore[method-assign]
    try:
        learn(bundle, out, steps=stand.pick(30, 4), evaluate_every=stand.pick(5, 2), evaluate_on=8)
    finally:
        torch.amp.GradScaler.__init__ = original  # type: ignore[method-assign]
    losses = [line["fixed_loss"] for line in progress(out) if "fixed_loss" in line]
    found.note("loss at the first evaluation", losses[0])
    found.must(
        "lowest loss in shares of the first one", min(losses) / losses[0], most=0.995 if not stand.tiny else 1
    )
    found.must("GradScalers made", made, most=0)


def resume(stand: Stand, found: Found) -> None:
    """A run that is stopped half way and resumed, against one that is not.

    Kernels that add in no fixed order make even two equal runs differ. Then the same is asked of deterministic ones,
    and of what these leave: a resumed run may differ by four times as much as equal runs do.
    """
    bundle, steps = stand.emoji(dtype="bfloat16"), stand.pick(10, 4)
    equal, resumed = _differences(stand, bundle, steps)
    if resumed:
        found.note("two equal runs differ by", equal)
        found.note("a resumed run differs by", resumed)
        with _deterministic():
            equal, resumed = _differences(stand, bundle, steps)
    found.note("two equal runs differ by, with deterministic kernels at the latest", equal)
    found.must("a resumed run differs by, likewise", resumed, most=4 * equal)


def _differences(stand: Stand, bundle: Bundle, steps: int) -> tuple[float, float]:
    """The largest difference of a number in the vectors of two equal runs, and of a run and a resumed one."""
    settings = {"steps": steps, "evaluate_every": 2, "evaluate_on": 2, "batch_size": 2}
    first, second = (learn(bundle, stand.out("whole"), **settings) for _ in range(2))
    out = stand.out("halves")
    learn(bundle, out, **settings | {"stop": str(steps // 2)})
    resumed = lab.train(bundle, lab.TrainConfig(resume=out, stop="never"))
    assert isinstance(resumed, lab.Embedding), "one name makes one embedding"

    def apart(other: lab.Embedding) -> float:
        return max(float((rows - other.vectors[key]).abs().max()) for key, rows in first.vectors.items())

    return apart(second), apart(resumed)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Inside the block, operations that are not deterministic warn, and others are where they can be."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def reward(stand: Stand, found: Found) -> None:
    """A negative embedding by a reward: the vectors move, every figure is a number."""
    out = stand.out("reward")
    config = lab.TrainConfig(
        name="my-negative",
        objective="reward",
        reward=["degraded", "clip_text=15"],
        prompt_file=PROMPTS,
        sampling_steps=stand.pick(8, 3),
        gradient_steps=2,
        vectors=4,
        init="text:blurry pixelated noisy",
        steps=stand.pick(8, 2),
        batch_size=stand.pick(8, 2),
        evaluate_every=stand.pick(4, 1),
        evaluate_on=stand.pick(16, 2),
        preview_every=0,
        stop="never",
        out=out,
    )
    made = lab.train(stand.emoji(dtype="bfloat16"), config)
    assert isinstance(made, lab.Embedding), "one name makes one embedding"
    lines = progress(out)
    found.note(
        "reward at the first evaluation",
        next(line["fixed_reward"] for line in lines if "fixed_reward" in line),
    )
    found.note("reward at the last step", lines[-1]["fixed_reward"])
    finite = all(bool(rows.isfinite().all()) for rows in made.vectors.values())
    found.must("vectors are numbers", finite, least=1)
    found.must("steps with a gradient", sum(line["gradient_norm"] > 0 for line in lines), least=len(lines))
