"""Negative embeddings by a reward: the gradient is right, goes nowhere else, and what it costs is watched."""

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderTiny

import lab
from lab.condition.encode import encode
from lab.errors import InputError
from lab.models.patches import frozen
from lab.sample.pixels import to_pixels
from lab.score.clip import open_clip
from lab.score.metrics import METRICS, Metric
from lab.training.config import TrainConfig
from lab.training.estimate import peak_memory
from lab.training.objectives.reward_ascent import RewardAscent

PROMPTS = ["a red apple", "a blue cat", "a dog on white"]


def metric(compute, differentiable=True, better=1):
    return Metric("brightness", "", 0, 1, better, "none", compute, differentiable=differentiable)


@pytest.fixture
def rewards(monkeypatch):
    """A reward for blue images, one that cannot be learned from, and the table's own."""
    blue = metric(lambda batch: batch.pixels[:, 2].mean(dim=(1, 2)) - batch.pixels[:, 0].mean(dim=(1, 2)))
    rounded = metric(lambda batch: batch.pixels.mean(dim=(1, 2, 3)).round(), differentiable=False)
    monkeypatch.setitem(METRICS, "blue", blue)
    monkeypatch.setitem(METRICS, "rounded", rounded)


@pytest.fixture
def rewarded(changed, tmp_path, clip_folder, rewards):
    """A run for bluer images."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    return lambda **settings: changed(
        **{
            "objective": "reward",
            "images": None,
            "name": "bad",
            "prompt_file": prompts,
            "clip": clip_folder,
            "reward": ["blue=10"],
            "sampling_steps": 3,
            "gradient_steps": 3,
            "guidance": 3.0,
            "scheduler": "ddim",
            "evaluate_on": 3,
            "optimizer": "adamw",  # climbs a toy by little each time
        }
        | settings
    )


@pytest.fixture
def make(started):
    """A function: the objective of a run and vectors that no word has."""

    def make(bundle, config):
        objective, learned = started(bundle, config)
        generator = torch.Generator().manual_seed(0)
        vectors = {
            name: 0.02 * torch.randn(rows.shape, generator=generator) for name, rows in learned.named()
        }
        learned.restore(vectors)
        return objective, learned

    return make


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_gradient_is_that_of_finite_differences_and_goes_to_the_vectors_alone(
    family, rewarded, request, make
):
    bundle = request.getfixturevalue(family)
    objective, learned = make(
        bundle, rewarded(keep_prompt=0.0)
    )  # its kink lies where vectors change nothing yet
    shots = objective.batch(0)
    with frozen(bundle):
        objective.losses(shots).mean().backward()
        gradients = {name: rows.grad.clone() for name, rows in learned.named()}
        modules = [bundle.unet, bundle.vae, *(tower.encoder for tower in bundle.towers)]
        assert all(weight.grad is None for module in modules for weight in module.parameters())
        assert all((gradient.norm(dim=1) > 0).all() for gradient in gradients.values())
        length = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                for name, rows in learned.named():
                    rows += sign * 0.005 * gradients[name] / length
                losses.append(objective.losses(shots).double().mean())
                for name, rows in learned.named():
                    rows -= sign * 0.005 * gradients[name] / length
    torch.testing.assert_close((losses[0] - losses[1]) / 0.01, length.double(), rtol=0.05, atol=0)


def test_fewer_gradient_steps_see_less_and_checkpointing_changes_nothing(sd1, rewarded, make):
    found = {}
    for last, again in ((3, False), (3, True), (1, False)):
        objective, learned = make(sd1, rewarded(gradient_steps=last, gradient_checkpointing=again))
        learned.restore({"bad/clip": torch.linspace(-0.02, 0.02, 64).view(2, 32)})
        with frozen(sd1, again):
            objective.losses(objective.batch(0)).mean().backward()
        found[last, again] = learned.parameters()[0].grad
    torch.testing.assert_close(found[3, True], found[3, False], rtol=1e-4, atol=1e-9)
    assert not torch.allclose(found[1, False], found[3, False], rtol=0.1)


@pytest.mark.parametrize("method", ["nag", "vsf"])
def test_without_guidance_a_method_that_needs_none_learns_also_where_memory_is_saved(
    method, sd1, rewarded, make
):
    found = []
    for again in (False, True):
        settings = {"guidance": 1.0, "negative_method": method, "gradient_checkpointing": again}
        objective, learned = make(sd1, rewarded(**settings, sampling_steps=2, gradient_steps=1))
        learned.restore({"bad/clip": torch.linspace(-0.02, 0.02, 64).view(2, 32)})
        with frozen(sd1, again and objective.layers_stay):
            objective.losses(objective.batch(0)).mean().backward()
        found.append(learned.parameters()[0].grad)
    assert (found[0].norm(dim=1) > 0).all()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("family", "place"), [("sd1", "output"), ("layered", "layers")])
def test_vectors_that_act_elsewhere_are_rewarded_for_the_images_that_they_make(
    family, place, request, rewarded, make
):
    bundle = request.getfixturevalue(family)
    found = []
    for again in (False, True):
        asked = rewarded(place=place, gradient_steps=1, gradient_checkpointing=again)
        objective, learned = make(bundle, asked)
        shots = objective.batch(0)[:1]
        with frozen(bundle, again and objective.layers_stay):
            loss = objective.losses(shots).mean()
            loss.backward()
        found.append(torch.cat([rows.grad for rows in learned.parameters()]))
    assert (found[0].norm(dim=1) > 0).all()
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-9)
    with torch.no_grad():
        pixels = to_pixels(bundle, images_of(bundle, learned, shots[0], "<bad>"))
        torch.testing.assert_close(objective.watch(shots)[0, 1], 10 * blueness(pixels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("method", "guidance"), [("cfg", 1.0), ("perp-neg", 0.5), ("negpip", 3.0)])
def test_a_method_that_leaves_the_vectors_no_part_is_refused(method, guidance, sd1, rewarded, started):
    with pytest.raises(lab.InputError, match="--guidance"):
        started(sd1, rewarded(guidance=guidance, negative_method=method))


def images_of(bundle, learned, shot, negative):
    """Latents (1, c, h, w) as `lab.generate` makes them."""
    settings = {"prompt": PROMPTS[shot.prompt], "seeds": [shot.seed], "steps": 3, "guidance": 3.0}
    (result,) = lab.generate(
        bundle, negative_prompt=negative, scheduler="ddim", embeddings=learned.embeddings(), **settings
    )
    return result.latents[None]


def blueness(pixels):
    return (pixels[:, 2] - pixels[:, 0]).mean()


def test_a_tiny_decoder_stands_in_for_the_vae(sd1, rewarded, make, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            upsampling_scaling_factor=2,
        )
    tiny.save_pretrained(tmp_path / "tiny")
    config = rewarded(tiny_decoder=tmp_path / "tiny")
    objective, learned = make(sd1, config)
    shot = objective.batch(0)[0]
    with torch.no_grad():
        _, reward, _ = objective.watch([shot])[0]
        pixels = (tiny.decode(images_of(sd1, learned, shot, "<bad>")).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(reward, 10 * blueness(pixels), atol=1e-4, rtol=1e-4)
    with frozen(sd1):
        objective.losses(objective.batch(0)).mean().backward()
    assert (learned.parameters()[0].grad.norm(dim=1) > 0).all()
    assert peak_memory(sd1, config) < peak_memory(sd1, rewarded())
    with pytest.raises(InputError, match="no tiny decoder"):
        make(sd1, rewarded(tiny_decoder=tmp_path))


def test_the_loss_is_its_formula_over_the_images_of_generate(sd1, rewarded, make, clip_folder):
    objective, learned = make(sd1, rewarded(keep_prompt=2.0, keep_image=3.0))
    clip = open_clip(sd1, clip_folder)
    shot = objective.batch(0)[0]
    with torch.no_grad():
        found = objective.watch([shot])[0]
        pixels, without = (
            to_pixels(sd1, images_of(sd1, learned, shot, negative)) for negative in ("<bad>", "")
        )
        (x,), (x0,), (text,) = (
            clip.images(pixels),
            clip.images(without),
            clip.texts([PROMPTS[shot.prompt]]),
        )
        reward = 10 * blueness(pixels)
        loss = -reward + 2 * (x0 @ text - x @ text).clamp_min(0) + 3 * (1 - x @ x0)
    torch.testing.assert_close(found, torch.stack([loss, reward, x @ text]), atol=1e-4, rtol=1e-4)


def test_the_reward_rises_and_the_penalties_hold_what_is_lost(sd1, rewarded, tmp_path):
    free, held = (
        run_of(sd1, rewarded(keep_prompt=keep, keep_image=keep, steps=12, out=tmp_path / f"{keep:g}"))
        for keep in (0.0, 100.0)
    )
    assert free[-1]["reward"] > free[0]["reward"] + 0.01
    assert free[-1]["reward"] > held[-1]["reward"]


def run_of(bundle, config):
    import json

    lab.train(bundle, config.model_copy(update={"learning_rate": 0.02, "most_lost": 2.0}))
    lines = [json.loads(line) for line in (config.out / "progress.jsonl").read_text().splitlines()]
    return [
        {key.removeprefix("fixed_"): value for key, value in line.items()}
        for line in lines
        if "fixed_loss" in line
    ]


def test_a_run_is_saved_in_both_forms_and_resumes_to_the_bit(sd1, rewarded, tmp_path):
    whole = lab.train(sd1, rewarded(steps=4, out=tmp_path / "whole"))
    config = rewarded(steps=4, stop="2")
    lab.train(sd1, config)
    resumed = lab.train(sd1, TrainConfig(resume=config.out, stop="never"))
    assert resumed.kind == "negative" and torch.equal(resumed.vectors["clip"], whole.vectors["clip"])
    file = config.out / "embeds" / "bad-embeds.safetensors"
    expected = encode(sd1, "<bad>", embeddings=[resumed])
    assert torch.equal(safetensors.torch.load_file(file)["embeds"], expected.embeds)
    settings = {"prompt": "a red apple", "steps": 2, "guidance": 3.0}
    one = lab.generate(sd1, negative_prompt="<bad>", embeddings=[resumed], **settings)[0]
    other = lab.generate(sd1, negative_embeds=file, **settings)[0]
    assert torch.equal(one.latents, other.latents)
    assert other.record["applied"][0]["name"] == "bad" and "negative_embeds_sha256" in other.record
    with pytest.raises(InputError, match="leave one of them out"):
        lab.generate(sd1, negative_embeds=file, negative_prompt="blurry", **settings)


def test_reward_hacking_stops_and_keeps_the_last_good_vectors(sd1, rewarded, monkeypatch, heard):
    evaluations = set()

    def falling(self, first, now):
        evaluations.add(now["loss"])
        return "reward hacking: the reward rose" if len(evaluations) > 2 else None

    monkeypatch.setattr(RewardAscent, "objection", falling)
    learned = lab.train(sd1, rewarded(steps=20), listener=heard)
    assert "Stopped at step 6: reward hacking" in heard.notes[-1] and learned.provenance.step in (2, 4)
    monkeypatch.setattr(RewardAscent, "objection", lambda self, first, now: "reward hacking: at once")
    with pytest.raises(InputError, match="at once; it came so soon"):
        lab.train(sd1, rewarded(out=rewarded().out.with_name("other")))


def test_what_counts_as_hacking(sd1, rewarded, make):
    objective, _ = make(sd1, rewarded(most_lost=0.02))
    first = {"loss": 0.0, "reward": 1.0, "clip_text": 0.30}
    assert objective.objection(first, {"reward": 1.5, "clip_text": 0.29}) is None
    assert objective.objection(first, {"reward": 0.5, "clip_text": 0.20}) is None
    assert "reward hacking: the reward rose from 1 to 1.5" in objective.objection(
        first, {"reward": 1.5, "clip_text": 0.27}
    )


def test_prompts_come_in_turns_and_noise_never_again(sd1, rewarded, make):
    objective, _ = make(sd1, rewarded(batch_size=2))
    shots = [shot for step in range(6) for shot in objective.batch(step)]
    assert [sorted(shot.prompt for shot in shots[at : at + 3]) for at in range(0, 12, 3)] == [[0, 1, 2]] * 4
    seeds = [shot.seed for shot in shots + [shot for group in objective.fixed() for shot in group]]
    assert len(set(seeds)) == len(seeds)
    assert objective.batch(3) == make(sd1, rewarded(batch_size=2))[0].batch(3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reward": ["rounded"]}, "'rounded' is not differentiable"),
        ({"reward": ["degraded"]}, "quality classifier"),
        ({"reward": ["pickscore"]}, "--pickscore"),
        ({"reward": []}, "--reward"),
        ({"reward": ["blue=much"]}, "NAME=WEIGHT"),
        ({"clip": None}, "vision half"),
        ({"prompt_file": None}, "--prompt-file"),
        ({"gradient_steps": 4}, "4 of 3 denoising steps"),
        ({"sampling_steps": 3, "scheduler": "dimm"}, "nearest: ddim"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(sd1, rewarded, settings, words):
    with pytest.raises(InputError, match=words) as error:
        lab.train(sd1, rewarded(**settings))
    assert "\n" not in str(error.value) and not rewarded().out.exists()


def test_a_reward_model_of_another_width_is_refused(sd1, rewarded, tmp_path):
    head = tmp_path / "head.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, head)
    with pytest.raises(InputError, match=r"768 wide, and this CLIP's are 24"):
        lab.train(sd1, rewarded(reward=["aesthetic"], aesthetic=head))


def test_reward_models_from_folders_add_up(sd1, rewarded, clip_folder, tmp_path, make):
    head = tmp_path / "head.safetensors"
    safetensors.torch.save_file({"weight": torch.linspace(-1, 1, 24)[None], "bias": torch.zeros(1)}, head)
    settings = {"pickscore": clip_folder, "aesthetic": head, "keep_prompt": 0.0, "keep_image": 0.0}
    found = {}
    for names in (["pickscore=0.5"], ["aesthetic=2"], ["pickscore=0.5", "aesthetic=2"]):
        objective, learned = make(sd1, rewarded(reward=names, **settings))
        with frozen(sd1):
            losses = objective.losses(objective.batch(0))
            losses.mean().backward()
        found[len(names), names[0][0]] = losses.detach(), learned.parameters()[0].grad
    for one, other, both in zip(found[1, "p"], found[1, "a"], found[2, "p"], strict=True):
        torch.testing.assert_close(one + other, both, rtol=1e-4, atol=1e-6)


def test_prompts_of_more_than_a_chunk_are_refused(sd1, rewarded):
    config = rewarded()
    config.prompt_file.write_text("red " * 80)
    with pytest.raises(InputError, match="more than 75 tokens"):
        lab.train(sd1, config)


def test_memory_is_estimated_first_with_what_would_fit(sd1, rewarded, monkeypatch):
    config = rewarded(batch_size=4)
    whole = peak_memory(sd1, config)
    assert peak_memory(sd1, config.model_copy(update={"gradient_steps": 1})) < whole
    assert peak_memory(sd1, config.model_copy(update={"gradient_checkpointing": True})) < whole
    monkeypatch.setattr("lab.training.estimate.free_memory", lambda device: 1000)
    with pytest.raises(
        InputError, match=r"memory: a step needs about .*--gradient-checkpointing.*--gradient-steps 1"
    ):
        lab.train(sd1, config)
    assert not config.out.exists()
