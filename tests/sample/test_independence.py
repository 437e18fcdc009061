"""Same seed, same image: whatever the batch size, the other prompts in it, and how memory ran out."""

from dataclasses import replace

import pytest
import torch

import lab
from lab.embeddings.embedding import Embedding
from lab.listening import Listener
from lab.models.schedulers import SCHEDULERS
from lab.sample import engine
from lab.sample.denoise import denoise
from tests.jobs import make_job

TOLERANCE = 1e-4
"""In latents: another batch size makes float32 sums in another order."""

PROMPTS = [
    "a red apple",
    "a blue dog, " + "painting of the cat, " * 30,
    "[a cat:a dog:2] on white",
    "green AND red :0.5",
]


def latents(results):
    return {(r.record["prompt"], r.record["seed"]): r.latents for r in results}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_batch_size_and_neighbours_change_nothing(sd1, scheduler):
    settings = {"steps": 4, "scheduler": scheduler, "guidance": 5.0, "negative_prompt": "blurry"}
    together = latents(lab.generate(sd1, prompt=PROMPTS, seeds="1-3", batch_size=5, **settings))
    assert len(together) == len(PROMPTS) * 3
    for prompt in PROMPTS:
        (alone,) = lab.generate(sd1, prompt=prompt, seeds="2", batch_size=1, **settings)
        torch.testing.assert_close(together[prompt, 2], alone.latents, atol=TOLERANCE, rtol=0)


def test_results_are_prompt_major_then_seeds(sd1):
    results = lab.generate(sd1, prompt=PROMPTS, seeds=[5, 2], steps=2)
    assert [(r.record["prompt"], r.record["seed"]) for r in results] == [
        (p, s) for p in PROMPTS for s in (5, 2)
    ]
    assert [r.index for r in results] == list(range(8))


def test_same_seed_twice_is_identical(sd1):
    first, second = (lab.generate(sd1, prompt="a cat", seeds=4, steps=3)[0] for _ in range(2))
    assert torch.equal(first.latents, second.latents)


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(sd1, monkeypatch):
    denoise, sizes, notes = engine.denoise, [], []
    listener = Listener()
    listener.note = notes.append

    def short_of_memory(bundle, jobs, observer=None):
        sizes.append(len(jobs))
        if len(jobs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return denoise(bundle, jobs, observer)

    expected = latents(lab.generate(sd1, prompt="a cat", seeds="1-8", steps=2))
    monkeypatch.setattr(engine, "denoise", short_of_memory)
    actual = latents(lab.generate(sd1, prompt="a cat", seeds="1-8", steps=2, listener=listener))
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert len(notes) == 2 and "4" in notes[0] and "2" in notes[1]
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("batch_size", "word"), [(4, "batch-size"), ("auto", "width")])
def test_no_memory_at_all_is_one_line(sd1, monkeypatch, batch_size, word):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(engine, "denoise", no_memory)
    with pytest.raises(lab.InputError, match=word):
        lab.generate(sd1, prompt="a cat", seeds="1-8", steps=2, batch_size=batch_size)


def test_other_runtime_errors_are_not_taken_for_memory(sd1, monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(engine, "denoise", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        lab.generate(sd1, prompt="a cat", steps=2)


def test_embeddings_of_files_and_folders_are_taken(sd1, tmp_path):
    Embedding("toy", {"clip": torch.ones(2, 32)}).save(tmp_path / "toy.safetensors")
    settings = {"prompt": "a <toy>", "seeds": "1", "steps": 1}
    one, other = (
        lab.generate(sd1, embeddings=given, **settings)[0]
        for given in ([str(tmp_path)], tmp_path / "toy.safetensors")
    )
    assert one.record["applied"][0]["name"] == "toy" and torch.equal(one.latents, other.latents)


def test_unguided_images_share_a_batch_whatever_their_negative_prompts(sd1):
    """A negative prompt of two parts beside one of one part, where neither takes part."""
    jobs = [make_job(sd1, seed=3, guidance=1.0) for _ in range(2)]
    (part,) = jobs[0].negative.parts
    jobs[1] = replace(jobs[1], negative=replace(jobs[1].negative, parts=(part, part)))
    latents = denoise(sd1, jobs)
    torch.testing.assert_close(latents[0], latents[1], atol=TOLERANCE, rtol=0)
