"""A textual-inversion loop of the stock kind, for one text encoder or two, to measure the lab against.

It does what diffusers' examples textual_inversion.py and textual_inversion_sdxl.py do: it decodes and encodes images in
every step, gives the optimizer whole token tables with weight decay, and puts the other rows back after each step. The
learning rate and the number of steps are those of the scripts' README, which scales the rate by the examples of a step
(--scale_lr). U-Net and VAE are in the bundle's precision; text encoders are in float32 and multiply in it.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, ModelMixin
from PIL import Image
from torch import Tensor

import lab
from lab.models.bundle import Bundle
from lab.training.data.pictures import load_view
from lab.training.objectives.denoising import Denoising
from lab.training.prepare import PreparedRun

RATE = 5e-4  # for each example of a step
DECAY = 1e-2
STEPS = 3000


class StockEncoder:
    """A text encoder with new tokens in its table, which alone is learned.

    Attributes:
        table: (tokens, width), with the new tokens' rows `new`.
    """

    def __init__(self, bundle: Bundle, position: int, tokens: Sequence[str]):
        tower = bundle.towers[position]
        self.key, self.length = tower.key, tower.context_length
        self.tokenizer = copy.deepcopy(tower.tokenizer)
        self.tokenizer.add_tokens(list(tokens))
        self.new = self.tokenizer.convert_tokens_to_ids(list(tokens))
        self.module = copy.deepcopy(tower.encoder).requires_grad_(False).train()
        rows = max(self.module.config.vocab_size, len(self.tokenizer))
        self.module.resize_token_embeddings(rows, mean_resizing=False)
        self.table = self.module.get_input_embeddings().weight.requires_grad_(True)
        self._others = torch.ones(len(self.table), dtype=torch.bool)
        self._others[self.new] = False
        self._original = self.table.detach().clone()

    def ids(self, captions: Sequence[str]) -> Tensor:
        """(b, length) token ids of captions."""
        return self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        ).input_ids

    @torch.no_grad()
    def put_back(self) -> None:
        """Undoes what a step did to the tokens that are not learned."""
        self.table[self._others] = self._original[self._others]


class StockLoop(ABC):
    """The loop, one step at a time; a subclass says what images and captions a step has."""

    def __init__(self, bundle: Bundle, unet: ModelMixin, tokens: Sequence[str], batch_size: int):
        self.bundle, self.unet, self.batch_size = bundle, unet, batch_size
        self.encoders = [StockEncoder(bundle, position, tokens) for position in range(len(bundle.towers))]
        tables = [encoder.table for encoder in self.encoders]
        self.optimizer = torch.optim.AdamW(tables, lr=RATE * batch_size, weight_decay=DECAY)
        self.scheduler = DDPMScheduler.from_config(dict(bundle.scheduler_config))
        self.vae = plain(bundle.vae, bundle.dtype)
        self.step_number = 0

    @abstractmethod
    def batch(self) -> tuple[Tensor, list[str]]:
        """Pixels (b, 3, h, w) in -1..1, decoded anew, and captions with a token for each vector."""

    def step(self) -> None:
        """One step as the scripts make it."""
        device, dtype = self.bundle.device, self.bundle.dtype
        pixels, captions = self.batch()
        with torch.no_grad():
            posterior = self.vae.encode(pixels.to(device, dtype)).latent_dist
            latents = posterior.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        steps = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, steps, (len(captions),), device=device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        states, pooled = self._encoded(captions)
        conditions = {}
        if self.bundle.traits.size_conditioning:
            height, width = pixels.shape[-2:]
            sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(captions), device=device)
            conditions["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        prediction = self.unet(noisy, timesteps, states, **conditions).sample
        is_v = self.bundle.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, timesteps) if is_v else noise
        loss = F.mse_loss(prediction.float(), target.float())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for encoder in self.encoders:
            encoder.put_back()
        self.step_number += 1
        loss.item()  # the scripts show it

    def _encoded(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Prompt embeddings (b, n, d), and SDXL's pooled ones (b, p)."""
        device, dtype = self.bundle.device, self.bundle.dtype
        states, pooled = [], None
        for encoder in self.encoders:
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                output = encoder.module(encoder.ids(captions).to(device), output_hidden_states=True)
            if len(self.encoders) == 1:
                states.append(output[0].to(dtype))
            else:
                states.append(output.hidden_states[-2].to(dtype))
                pooled = output[0].to(dtype)
        return torch.cat(states, dim=-1), pooled


class Stock(StockLoop):
    """The loop with what it takes to learn well: the initial vectors, images and captions of a prepared run of the lab.

    For models with one text encoder.
    """

    def __init__(self, run: PreparedRun):
        torch.manual_seed(run.config.seed)  # the script draws everything from the global generator
        assert isinstance(run.objective, Denoising), "as that script's, it learns from images by denoising"
        ((self.name, beginning),) = run.learned.beginnings.items()
        self.run, self.data = run, run.objective.data
        self.tokens = [f"<{self.name}-{number}>" for number in range(run.config.counts[0])]
        bundle = run.bundle
        super().__init__(bundle, plain(bundle.unet, bundle.dtype), self.tokens, run.config.batch_size)
        (self.encoder,) = self.encoders
        table = self.encoder.table
        with torch.no_grad():
            table[self.encoder.new] = beginning.initial.vectors[self.encoder.key].to(table)

    def batch(self) -> tuple[Tensor, list[str]]:
        """The next views of the run's pictures, and of each one of its captions."""
        config, data = self.run.config, self.data
        first = self.step_number * config.batch_size
        views = [data.views[(first + slot) % len(data.views)] for slot in range(config.batch_size)]
        pictures = [data.pictures[view.picture] for view in views]
        pixels = [load_view(picture, view, config)[0] for picture, view in zip(pictures, views, strict=True)]
        drawn = [picture.captions[int(torch.randint(len(picture.captions), ()))] for picture in pictures]
        tokens = " ".join(self.tokens)
        return torch.stack(pixels), [text.replace(f"<{self.name}>", tokens) for text in drawn]

    def embedding(self) -> lab.Embedding:
        """The vectors as they are."""
        rows = self.encoder.table.detach()[self.encoder.new]
        return lab.Embedding(self.name, {self.encoder.key: rows.float().cpu()})


class FolderStock(StockLoop):
    """The loop over the PNG files of a folder with one caption, where speed alone counts. The U-Net is the bundle's."""

    def __init__(self, bundle: Bundle, images: Path, vectors: int, batch_size: int):
        tokens = [f"<thing-{number}>" for number in range(vectors)]
        super().__init__(bundle, bundle.unet, tokens, batch_size)
        self._caption = f"a photo of a {' '.join(tokens)}"
        self._files = sorted(images.glob("*.png"))

    def batch(self) -> tuple[Tensor, list[str]]:
        """The folder's next files at the model's own size."""
        side, arrays = self.bundle.defaults.width, []
        for slot in range(self.batch_size):
            file = self._files[(self.step_number * self.batch_size + slot) % len(self._files)]
            image = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            arrays.append(np.asarray(image, dtype=np.float32) / 127.5 - 1)
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        return pixels, [self._caption] * self.batch_size


def plain(module: ModelMixin, dtype: torch.dtype) -> ModelMixin:
    """The network as diffusers loads it, with nothing that the lab does to be fast."""
    twin = type(module).from_config(module.config)
    twin.load_state_dict(module.state_dict())
    return twin.to(module.device, dtype).requires_grad_(False).eval()
