"""A textual-inversion loop of the stock kind, to measure the lab against.

It does what diffusers' examples/textual_inversion/textual_inversion.py does: it decodes and encodes images in every
step, gives the optimizer the whole token table with weight decay, and puts the other rows back after each step. The
learning rate and the number of steps are those of the script's README, which scales the rate by the examples of a step
(--scale_lr).
"""

import copy

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, ModelMixin

import lab
from lab.training.data.pictures import load_view
from lab.training.prepare import Run

RATE = 5e-4  # for each example of a step
DECAY = 1e-2
STEPS = 3000


class Stock:
    """The loop, one step at a time, from the initial vectors, images and captions of a prepared run of the lab."""

    def __init__(self, run: Run):
        torch.manual_seed(run.config.seed)  # the script draws everything from the global generator
        bundle = self.bundle = run.bundle
        self.run = run
        (self.tower,) = bundle.towers
        self.name, count = run.config.name, run.config.vectors
        self.tokens = [f"<{self.name}-{number}>" for number in range(count)]
        self.tokenizer = copy.deepcopy(self.tower.tokenizer)
        self.tokenizer.add_tokens(self.tokens)
        self.new = self.tokenizer.convert_tokens_to_ids(self.tokens)
        self.encoder = copy.deepcopy(self.tower.encoder).train()
        rows = max(self.encoder.config.vocab_size, len(self.tokenizer))
        self.encoder.resize_token_embeddings(rows, mean_resizing=False)
        self.encoder.requires_grad_(False)
        self.table = self.encoder.get_input_embeddings().weight
        self.table.requires_grad_(True)
        with torch.no_grad():
            self.table[self.new] = (
                run.learned.beginnings[self.name].initial.vectors[self.tower.key].to(self.table)
            )
        self.original = self.table.detach().clone()
        self.others = torch.ones(len(self.table), dtype=torch.bool)
        self.others[self.new] = False
        self.optimizer = torch.optim.AdamW([self.table], lr=RATE * run.config.batch_size, weight_decay=DECAY)
        self.scheduler = DDPMScheduler.from_config(dict(bundle.scheduler_config))
        self.unet, self.vae = plain(bundle.unet, bundle.dtype), plain(bundle.vae, bundle.dtype)
        self.step_number = 0

    def step(self) -> None:
        """One step as the script makes it."""
        device, dtype = self.bundle.device, self.bundle.dtype
        pixels, captions = self.batch()
        with torch.no_grad():
            posterior = self.vae.encode(pixels.to(device, dtype)).latent_dist
            latents = posterior.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        steps = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, steps, (len(captions),), device=device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        length = self.tower.context_length
        ids = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            states = self.encoder(ids.to(device))[0].to(dtype)
        prediction = self.unet(noisy, timesteps, states).sample
        is_v = self.bundle.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, timesteps) if is_v else noise
        F.mse_loss(prediction.float(), target.float()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.table[self.others] = self.original[self.others]
        self.step_number += 1

    def batch(self) -> tuple[torch.Tensor, list[str]]:
        """Pixels (b, 3, h, w) in -1..1, decoded anew, and captions with a token for each vector."""
        config, data = self.run.config, self.run.objective.data
        first = self.step_number * config.batch_size
        views = [data.views[(first + slot) % len(data.views)] for slot in range(config.batch_size)]
        pictures = [data.pictures[view.picture] for view in views]
        pixels = [load_view(picture, view, config)[0] for picture, view in zip(pictures, views, strict=True)]
        drawn = [picture.captions[int(torch.randint(len(picture.captions), ()))] for picture in pictures]
        tokens = " ".join(self.tokens)
        return torch.stack(pixels), [text.replace(f"<{self.name}>", tokens) for text in drawn]

    def embedding(self) -> lab.Embedding:
        """The vectors as they are."""
        return lab.Embedding(self.name, {self.tower.key: self.table.detach()[self.new].float().cpu()})


def plain(module: ModelMixin, dtype: torch.dtype) -> ModelMixin:
    """The network as diffusers loads it, with nothing that the lab does to be fast."""
    twin = type(module).from_config(module.config)
    twin.load_state_dict(module.state_dict())
    return twin.to(module.device, dtype).requires_grad_(False).eval()
