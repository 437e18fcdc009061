"""How fast the lab learns an embedding, against a loop of the stock kind on the same weights, images and batch.

    python -m scripts.bench_training [--steps 10] [--batch-size 4]           # steps/s and memory, the bundled model
    python -m scripts.bench_training --shape sd15 --batch-size 1 --steps 2    # random weights of SD 1.5's shape, 256 px
    python -m scripts.bench_training --quality                               # time to an equal fixed-batch loss

The stock loop is that of diffusers' examples/textual_inversion/textual_inversion.py: it decodes and encodes images in
every step, gives the optimizer the whole token table with weight decay, and puts the other rows back after each step.
Both sides run in this one process and take turns, so that a machine that changes its speed does so for both.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import lab
from lab.models.bundle import Bundle, TextTower
from lab.training.frozen import frozen
from lab.training.learned import Learned
from lab.training.loop import Loop
from lab.training.objectives import find_objective
from lab.training.pictures import load_view
from lab.training.prepare import Prepared, prepare
from scripts.bench_generate import peak, reset_peak

IMAGES = Path("lab/assets/samples/hot-dog")
STOCK_RATE = 5e-4  # the README of diffusers' script
STOCK_DECAY = 1e-2
LONGEST = 3000  # steps of the stock loop before the comparison gives up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=("emoji", "sd15"), default="emoji")
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "both"), default="both")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="rounds; each side makes one step in each")
    parser.add_argument("--quality", action="store_true", help="time to an equal fixed-batch loss (float32)")
    arguments = parser.parse_args()
    precisions = ("float32", "bfloat16") if arguments.dtype == "both" else (arguments.dtype,)
    for dtype in ("float32",) if arguments.quality else precisions:
        bundle = lab.load("emoji", dtype=dtype) if arguments.shape == "emoji" else sd15_shape(dtype)
        with tempfile.TemporaryDirectory() as out:
            prepared = prepare(bundle, config_for(arguments, Path(out)))
            with frozen(bundle):
                (compare_quality if arguments.quality else compare_speed)(bundle, prepared, arguments, dtype)


def config_for(arguments: argparse.Namespace, out: Path) -> lab.TrainConfig:
    return lab.TrainConfig(
        images=arguments.images,
        name="my-thing",
        vectors=4,
        init="text:a thing",
        batch_size=arguments.batch_size,
        evaluate_every=10 if arguments.quality else 10**6,
        out=out,
    )


def sd15_shape(dtype: str) -> Bundle:
    """Random weights of the shape of Stable Diffusion 1.5, at 256 px; the vocabulary is the bundled model's."""
    emoji = lab.load("emoji")
    tokenizer = emoji.towers[0].tokenizer
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).to(getattr(torch, dtype))
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks)
    return Bundle(
        source="SD 1.5 shape",
        root=emoji.root,
        family="sd1",
        towers=(TextTower("clip_l", tokenizer, text.to(emoji.device).eval(), emoji.towers[0].pad_token_id),),
        unet=unet.to(emoji.device).eval(),
        vae=vae.to(emoji.device).eval(),
        scheduler_config={
            **emoji.scheduler_config,
            "prediction_type": "epsilon",
            "rescale_betas_zero_snr": False,
        },
        device=emoji.device,
        dtype=getattr(torch, dtype),
        defaults=type(emoji.defaults)(width=256, height=256),
    )


def lab_loop(bundle: Bundle, prepared: Prepared) -> Loop:
    """The lab's loop, its latents encoded."""
    prepared.data.latents.encode_all()
    config = prepared.config
    learned = Learned(bundle, {config.name: prepared.initial[config.name].vectors}, {config.name: "concept"})
    task = find_objective("concept").task(bundle, config, prepared.data, learned)
    return Loop(task, learned, config, prepared.rates, Accelerator(cpu=bundle.device.type == "cpu"))


class Stock:
    """The stock loop, one step at a time."""

    def __init__(self, bundle: Bundle, prepared: Prepared):
        self.bundle, self.prepared = bundle, prepared
        (tower,) = bundle.towers
        self.tokenizer = copy.deepcopy(tower.tokenizer)
        self.encoder = copy.deepcopy(tower.encoder).train()
        count = prepared.config.vectors
        self.tokenizer.add_tokens([f"<my-thing-{number}>" for number in range(count)])
        self.new = self.tokenizer.convert_tokens_to_ids([f"<my-thing-{number}>" for number in range(count)])
        self.encoder.resize_token_embeddings(
            max(self.encoder.config.vocab_size, len(self.tokenizer)), mean_resizing=False
        )
        self.encoder.requires_grad_(False)
        self.table = self.encoder.get_input_embeddings().weight
        self.table.requires_grad_(True)
        with torch.no_grad():
            self.table[self.new] = prepared.initial["my-thing"].vectors[tower.key].to(self.table)
        self.optimizer = torch.optim.AdamW([self.table], lr=STOCK_RATE, weight_decay=STOCK_DECAY)
        self.scheduler = DDPMScheduler.from_config(dict(bundle.scheduler_config))
        self.vae = copy.deepcopy(bundle.vae).to(bundle.dtype)
        self.original = self.table.detach().clone()
        self.step_number = 0

    def step(self) -> None:
        """One step as the stock script makes it."""
        config, data = self.prepared.config, self.prepared.data
        size, device, dtype = config.batch_size, self.bundle.device, self.bundle.dtype
        places = [(self.step_number * size + slot) % len(data.views) for slot in range(size)]
        pixels = torch.stack([load_view(data.pictures[i], data.views[i], config)[0] for i in places])
        captions = [list(data.captions)[int(torch.randint(len(data.captions), ()))] for _ in places]
        captions = [
            text.replace("<my-thing>", " ".join(f"<my-thing-{n}>" for n in range(len(self.new))))
            for text in captions
        ]
        with torch.no_grad():
            latents = (
                self.vae.encode(pixels.to(device, dtype)).latent_dist.sample()
                * self.vae.config.scaling_factor
            )
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (size,), device=device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        length = self.bundle.towers[0].context_length
        ids = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            states = self.encoder(ids.to(device))[0].to(dtype)
        prediction = self.bundle.unet(noisy, timesteps, states).sample
        is_v = self.bundle.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, timesteps) if is_v else noise
        F.mse_loss(prediction.float(), target.float()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        others = torch.ones(len(self.table), dtype=torch.bool)
        others[self.new] = False
        with torch.no_grad():
            self.table[others] = self.original[others]
        self.step_number += 1


def compare_speed(bundle: Bundle, prepared: Prepared, arguments: argparse.Namespace, dtype: str) -> None:
    """Steps a second and peak memory, taking turns."""
    loop, stock = lab_loop(bundle, prepared), Stock(bundle, prepared)
    sides: dict[str, Callable[[], object]] = {
        "stock": stock.step,
        "lab": lambda: loop.run(lambda report: None, interrupted=lambda: True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(arguments.steps + 1):
        for name, step in sides.items():
            before = reset_peak()
            began = time.perf_counter()
            step()
            if turn > 0:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
                memory[name].append((peak() - before) / 2**20)
    ratio = statistics.median(a / b for a, b in zip(seconds["stock"], seconds["lab"], strict=True))
    print(
        f"{bundle.source}, {prepared.data.views[0].bucket.width} px, batch {prepared.config.batch_size}, {dtype}:"
    )
    for name in sides:
        print(
            f"  {name:6} {1 / statistics.median(seconds[name]):7.3f} steps/s, peak {max(memory[name]):6.0f} MB more"
        )
    print(f"  the lab makes {ratio:.2f} times the steps")


def compare_quality(bundle: Bundle, prepared: Prepared, arguments: argparse.Namespace, dtype: str) -> None:
    """Seconds until the lab stops by itself, and until the stock loop is at the same loss on the fixed examples."""
    loop, stock = lab_loop(bundle, prepared), Stock(bundle, prepared)
    began = time.perf_counter()
    ending = loop.run(lambda report: None)
    ours = time.perf_counter() - began
    goal, steps = loop.state.best_loss, loop.state.step
    print(f"lab: {steps} steps in {ours:.0f} s to a fixed-batch loss of {goal:.4f}; {ending.reason}")
    theirs, reached = 0.0, float("inf")
    while reached > goal and stock.step_number < LONGEST:
        began = time.perf_counter()
        for _ in range(20):
            stock.step()
        theirs += time.perf_counter() - began
        key = bundle.towers[0].key
        loop.learned.restore({f"my-thing/{key}": stock.table.detach()[stock.new].float().cpu()})
        reached = loop.evaluate()  # outside of the stock loop's time
        print(f"stock: step {stock.step_number}, {theirs:.0f} s, fixed-batch loss {reached:.4f}")
    more = "" if reached <= goal else "more than "
    print(f"the stock loop needs {more}{theirs / ours:.1f} times the time")


if __name__ == "__main__":
    main()
