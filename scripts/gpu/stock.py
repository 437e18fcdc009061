"""A textual-inversion loop of the stock kind, for one text encoder or two.

It does what diffusers' examples textual_inversion.py and textual_inversion_sdxl.py do: it opens and encodes images in
every step, gives the optimizer whole token tables with weight decay, and puts the other rows back after each step.
U-Net and VAE are in half precision; text encoders are in float32 and multiply in half under autocast.
`scripts/stock_training.py` is the same loop with what it takes to learn well; here speed alone counts.
"""

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler
from PIL import Image
from torch import Tensor

from lab.models.bundle import Bundle

CAPTION = "a photo of a "
RATE, DECAY = 5e-4, 1e-2


class _Encoder:
    """A text encoder with new tokens in its table."""

    def __init__(self, bundle: Bundle, position: int, vectors: int):
        tower = bundle.towers[position]
        self.tokenizer = copy.deepcopy(tower.tokenizer)
        names = [f"<thing-{number}>" for number in range(vectors)]
        self.tokenizer.add_tokens(names)
        self.text = CAPTION + " ".join(names)
        self.length = tower.context_length
        self.module = copy.deepcopy(tower.encoder).requires_grad_(False).train()
        self.module.resize_token_embeddings(
            max(self.module.config.vocab_size, len(self.tokenizer)), mean_resizing=False
        )
        self.table = self.module.get_input_embeddings().weight.requires_grad_(True)
        self.original = self.table.detach().clone()
        self.others = torch.ones(len(self.table), dtype=torch.bool)
        self.others[self.tokenizer.convert_tokens_to_ids(names)] = False

    def ids(self, count: int) -> Tensor:
        """(count, length) token ids of the caption."""
        return self.tokenizer(
            [self.text] * count,
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        ).input_ids

    @torch.no_grad()
    def put_back(self) -> None:
        """Undoes what a step did to the tokens that are not learned."""
        self.table[self.others] = self.original[self.others]


class StockLoop:
    """The loop, one step at a time."""

    def __init__(self, bundle: Bundle, images: Path, vectors: int, batch_size: int):
        self.bundle = bundle
        self.files = sorted(images.glob("*.png"))
        self.batch_size = batch_size
        self.encoders = [_Encoder(bundle, position, vectors) for position in range(len(bundle.towers))]
        tables = [encoder.table for encoder in self.encoders]
        self.optimizer = torch.optim.AdamW(tables, lr=RATE * batch_size, weight_decay=DECAY)
        self.scheduler = DDPMScheduler.from_config(dict(bundle.scheduler_config))
        twin = AutoencoderKL.from_config(bundle.vae.config)
        twin.load_state_dict(bundle.vae.state_dict())
        self.vae = twin.to(bundle.device, bundle.dtype).requires_grad_(False).eval()
        self.step_number = 0

    def step(self) -> None:
        """One step as the scripts make it."""
        device, dtype = self.bundle.device, self.bundle.dtype
        with torch.no_grad():
            posterior = self.vae.encode(self._pixels().to(device, dtype)).latent_dist
            latents = posterior.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        steps = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, steps, (self.batch_size,), device=device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        states, pooled = self._encoded()
        conditions = {}
        if self.bundle.traits.size_conditioning:
            side = self.bundle.defaults.width
            sizes = torch.tensor([[side, side, 0, 0, side, side]] * self.batch_size, device=device)
            conditions["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        prediction = self.bundle.unet(noisy, timesteps, states, **conditions).sample
        loss = F.mse_loss(prediction.float(), noise.float())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for encoder in self.encoders:
            encoder.put_back()
        self.step_number += 1
        loss.item()  # the scripts show it

    def _encoded(self) -> tuple[Tensor, Tensor | None]:
        """Prompt embeddings (b, n, d), and SDXL's pooled ones (b, p)."""
        device, dtype = self.bundle.device, self.bundle.dtype
        states, pooled = [], None
        for encoder in self.encoders:
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                output = encoder.module(encoder.ids(self.batch_size).to(device), output_hidden_states=True)
            if len(self.encoders) == 1:
                states.append(output[0].to(dtype))
            else:
                states.append(output.hidden_states[-2].to(dtype))
                pooled = output[0].to(dtype)
        return torch.cat(states, dim=-1), pooled

    def _pixels(self) -> Tensor:
        """(b, 3, H, W) in -1..1, opened and scaled anew."""
        side, arrays = self.bundle.defaults.width, []
        for slot in range(self.batch_size):
            file = self.files[(self.step_number * self.batch_size + slot) % len(self.files)]
            image = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            arrays.append(np.asarray(image, dtype=np.float32) / 127.5 - 1)
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
