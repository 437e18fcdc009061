import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import nn

from lab.models.patches import frozen
from lab.training.data.caption_encoder import CaptionEncoder
from lab.training.data.captions import read_templates
from lab.training.objectives.denoising import (
    ERRORS,
    Concept,
    add_noise,
    alphas_cumprod,
    huber_error,
    min_snr_weights,
    squared_error,
)
from tests.jobs import out_of_sight


@pytest.mark.parametrize("family", ["sd1", "sd2", "emoji"])
def test_noisy_latents_and_targets_are_the_schedulers(family, request):
    bundle = request.getfixturevalue(family)
    scheduler = DDPMScheduler.from_config(dict(bundle.scheduler_config))
    latents, noise = torch.randn(2, 3, 4, 8, 8).unbind()
    timesteps = torch.tensor([0, 500, 999])
    noisy, target = add_noise(latents, noise, alphas_cumprod(bundle)[timesteps], bundle.prediction_type)
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, timesteps))
    expected = (
        noise if bundle.prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    )
    torch.testing.assert_close(target, expected)


@pytest.mark.parametrize(("kind", "extra"), [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_weights_are_those_of_diffusers_scripts(sd1, kind, extra):
    scheduler = DDPMScheduler.from_config(dict(sd1.scheduler_config))
    timesteps = torch.arange(0, 1000, 37)
    snr = compute_snr(scheduler, timesteps)
    # examples/text_to_image/train_text_to_image.py
    expected = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0] / (snr + extra)
    torch.testing.assert_close(min_snr_weights(snr, kind), expected)


def test_huber_is_squared_for_small_errors_and_straight_for_large_ones():
    small, large = torch.tensor([0.01, -0.05]), torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(huber_error(small, torch.zeros(2)), squared_error(small, torch.zeros(2)))
    steps = huber_error(large, torch.zeros(3)).diff()
    torch.testing.assert_close(steps[0], steps[1])
    assert huber_error(large, torch.zeros(3))[2] < squared_error(large, torch.zeros(3))[2]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_losses_equal_those_of_a_stock_loop(family, config, request, started):
    """Against the U-Net fed as diffusers' textual_inversion scripts feed it, with resized tables and all."""
    bundle = request.getfixturevalue(family)
    objective, learned = started(bundle, config)
    examples = objective.batch(0)
    with torch.no_grad():
        actual = objective.losses(examples)
        expected = torch.stack([stock_loss(bundle, learned, objective.data, example) for example in examples])
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_no_step_waits_for_the_device(family, config, request, started):
    """Neither encoding images nor a loss and its gradients look at what the device computes."""
    objective, learned = started(request.getfixturevalue(family), config)
    there = out_of_sight(objective.bundle)
    for name, towers in learned.rows.items():
        learned.rows[name] = {key: nn.Parameter(rows.detach().to("meta")) for key, rows in towers.items()}
    unseen = Concept(there, config, {})
    unseen.start(learned)
    unseen.losses(unseen.batch(0)).sum().backward()
    assert all(rows.grad.is_meta for rows in learned.parameters())


@pytest.mark.parametrize(
    ("accumulation", "checkpointing", "sizes"), [(1, False, [4, 4]), (4, False, [4, 4]), (4, True, [1] * 8)]
)
def test_a_step_in_parts_is_evaluated_as_a_whole(accumulation, checkpointing, sizes, sd1, changed, started):
    settings = {"accumulation": accumulation, "gradient_checkpointing": checkpointing}
    objective, _ = started(sd1, changed(batch_size=4, evaluate_on=8, **settings))
    assert sorted(len(group) for group in objective.fixed()) == sizes


def stock_loss(bundle, learned, data, example):
    scheduler = DDPMScheduler.from_config(dict(bundle.scheduler_config))
    states, pooled = [], None
    for tower in bundle.towers:
        before, after = example.caption.split("<cat-toy>")
        words = [tower.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)]
        ids = [tower.tokenizer.bos_token_id, *words[0], 0, 0, *words[1], tower.tokenizer.eos_token_id]
        ids += [tower.pad_token_id] * (77 - len(ids))
        table = tower.encoder.get_input_embeddings()
        embedded = table(torch.tensor([ids]))
        start = 1 + len(words[0])
        embedded[0, start : start + 2] = learned.rows["cat-toy"][tower.key]
        handle = table.register_forward_hook(lambda *_, embedded=embedded: embedded)
        output = tower.encoder(torch.tensor([ids]), output_hidden_states=True)
        handle.remove()
        states.append(output.hidden_states[-2] if bundle.family == "sdxl" else output.last_hidden_state)
        pooled = getattr(output, "text_embeds", None)
    entry = data.latents.get(example.view)
    sample, noise = data.order.noise(example, (2, *entry["mean"].shape)).unbind()
    latents = (entry["mean"] + entry["std"] * sample)[None]
    timestep = torch.tensor([example.timestep])
    noisy = scheduler.add_noise(latents, noise[None], timestep)
    target = noise[None]
    if bundle.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, noise[None], timestep)
    extra = None
    if bundle.family == "sdxl":  # original size, crop, target size: height before width
        extra = {"text_embeds": pooled, "time_ids": torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]])}
    prediction = bundle.unet(noisy, timestep, torch.cat(states, dim=-1), added_cond_kwargs=extra).sample
    return torch.nn.functional.mse_loss(prediction, target)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_every_vector_of_every_encoder_gets_a_gradient_and_nothing_else_does(
    family, config, request, started
):
    bundle = request.getfixturevalue(family)
    objective, learned = started(bundle, config)
    with frozen(bundle):
        objective.losses(objective.batch(0)).mean().backward()
    assert len(learned.parameters()) == len(bundle.towers)
    for rows in learned.parameters():
        assert (rows.grad.norm(dim=1) > 0).all()
    modules = [bundle.unet, bundle.vae, *(tower.encoder for tower in bundle.towers)]
    assert all(weight.grad is None for module in modules for weight in module.parameters())


def test_gradient_checkpointing_gives_the_same_gradient(sd1, config, started):
    objective, learned = started(sd1, config)
    gradients = []
    for checkpointing in (False, True):
        with frozen(sd1, checkpointing):
            assert sd1.unet.is_gradient_checkpointing == checkpointing
            objective.losses(objective.batch(0)).mean().backward()
        gradients.append(learned.parameters()[0].grad.clone())
        learned.parameters()[0].grad = None
    torch.testing.assert_close(*gradients)
    assert not sd1.unet.is_gradient_checkpointing


def test_masked_parts_of_an_image_have_no_say(sd1, changed, images, started, monkeypatch):
    from PIL import Image

    for path in list(images.glob("*.png")):
        mask = Image.new("L", (32, 32), 255)
        mask.paste(0, (0, 0, 16, 32))
        mask.save(path.with_suffix(".mask.png"))
    left_half_nine_times = torch.tensor([9.0, 1.0]).repeat_interleave(4)
    objective, _ = started(sd1, changed())
    monkeypatch.setitem(ERRORS, "mse", lambda *both: squared_error(*both) * left_half_nine_times)
    wronged, _ = started(sd1, changed())
    with torch.no_grad():
        torch.testing.assert_close(wronged.losses(objective.batch(0)), objective.losses(objective.batch(0)))
    assert objective.data.latents.get(0)["weight"].mean() == 0.5


def test_words_behind_the_vectors_are_drawn_to_what_they_are_behind_a_known_word(sd1, changed, started):
    """Against CoRe's formula, computed from whole prompts; vectors that are the word's own do nothing to it."""
    config = changed(keep_context=2.0, vectors=1, init="text:cat")
    objective, learned = started(sd1, config)
    examples = objective.batch(0)
    torch.testing.assert_close(objective.losses(examples), objective.errors(examples), atol=1e-6, rtol=0)
    with torch.no_grad():
        learned.rows["cat-toy"]["clip"] += torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    added = (objective.losses(examples) - objective.errors(examples)) / 2.0
    prompts = [line for line in read_templates(["context"]) if not line.endswith("{name}")]
    for example, found in zip(examples, added.tolist(), strict=True):
        generator = config.generator("context", example.step, example.slot)
        prompt = prompts[int(torch.randint(len(prompts), (), generator=generator))]
        with torch.no_grad():
            encode = CaptionEncoder(sd1, learned.placed)
            texts = [prompt.replace("{name}", text) for text in ("<cat-toy>", "cat")]
            with_vector, with_word = encode(texts)[0]
        spans = encode.spans(texts[0])
        (own,) = (span for span in spans if span.embedding)
        behind = [row for span in spans if span.start > own.start for row in range(span.start, span.end)]
        cosines = torch.cosine_similarity(with_vector[behind], with_word[behind], dim=1)
        assert found == pytest.approx(float((1 - cosines).mean()), abs=1e-5) and found > 1e-4
    assert torch.equal(objective.watch(examples)[:, 0], objective.errors(examples))
