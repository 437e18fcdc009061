"""What the lab writes gives the same images in diffusers as in the lab."""

import diffusers
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

import lab
from lab.embeddings.embedding import Embedding
from lab.models.schedulers import SCHEDULERS
from tests.embeddings.files import vectors
from tests.paths import (
    CLIP_TOKENIZER,
    PUBLISHED_EMBEDDINGS,
    needs_clip_tokenizer,
    needs_published_embeddings,
)
from tests.tiny import make_model

SEED, STEPS, GUIDANCE = 3, 3, 5.0


def test_sd(tmp_path, sd1, sd1_folder):
    embedding = Embedding("cat", {"clip": vectors(3, sd1.towers[0].width)})
    embedding.save(tmp_path / "cat.safetensors")
    pipe = StableDiffusionPipeline.from_pretrained(sd1_folder)
    pipe.load_textual_inversion(str(tmp_path), weight_name="cat.safetensors")
    check(sd1, pipe, lab.read_embedding(tmp_path / "cat.safetensors"))


def test_sdxl(tmp_path, sdxl, sdxl_folder):
    Embedding("cat", {tower.key: vectors(3, tower.width) for tower in sdxl.towers}).save(
        tmp_path / "cat.safetensors"
    )
    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl_folder, add_watermarker=False)
    state = load_file(tmp_path / "cat.safetensors")
    parts = ("clip_l", pipe.tokenizer, pipe.text_encoder), ("clip_g", pipe.tokenizer_2, pipe.text_encoder_2)
    for key, tokenizer, encoder in parts:
        pipe.load_textual_inversion(state[key], token="<cat>", tokenizer=tokenizer, text_encoder=encoder)
    check(sdxl, pipe, lab.read_embedding(tmp_path / "cat.safetensors"))


@needs_clip_tokenizer
@needs_published_embeddings
def test_published_embeddings_generate_with_clip_s_own_vocabulary(tmp_path):
    bundle = lab.load(make_model(tmp_path / "sd1", "sd1", CLIP_TOKENIZER, true_widths=True), device="cpu")
    prompts = [
        "a bird",
        "a bird, <birb-style.learned_embeds>",
        "a (<bad-hands-5>:0.6) bird, embedding:EasyNegative",
    ]
    settings = {"seeds": [SEED], "steps": 2, "embeddings": lab.read_embedding(PUBLISHED_EMBEDDINGS)}
    plain, *others = (lab.generate(bundle, prompt=prompt, **settings)[0] for prompt in prompts)
    used = [[use["name"] for use in result.record["applied"]] for result in others]
    assert used == [["birb-style.learned_embeds"], ["bad-hands-5", "EasyNegative"]]
    for result in others:
        assert result.latents.isfinite().all()
        assert not torch.equal(result.latents, plain.latents)


def check(bundle, pipe, embedding):
    plain, expected = (
        diffusers_latents(bundle, pipe, prompt) for prompt in ("a dog, red", "a dog, <cat> red")
    )
    (result,) = lab.generate(
        bundle,
        prompt="a dog, <cat> red",
        negative_prompt="blurry",
        seeds=[SEED],
        steps=STEPS,
        guidance=GUIDANCE,
        scheduler="ddim",
        embeddings=[embedding],
    )
    torch.testing.assert_close(result.latents, expected, atol=1e-4, rtol=0)
    assert (plain - expected).abs().max() > 1e-2  # the vectors do something


def diffusers_latents(bundle, pipe, prompt):
    kind = SCHEDULERS["ddim"]
    pipe.scheduler = getattr(diffusers, kind.class_name).from_config(
        dict(bundle.scheduler_config), **kind.settings
    )
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(SEED)
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "latent"}
    return pipe(prompt, negative_prompt="blurry", generator=generator, **settings).images[0]
