"""Teach a copy of the U-Net to draw in a few steps without guidance: a consistency model of the guided teacher.

From any point of a trajectory it predicts its end, so that an image needs as many steps as one cares to correct it
(Song et al. 2303.01469; with guidance learnt too and sampled by diffusers' LCMScheduler, Luo et al. 2310.04378).
Where those take the end from the learner's own average one step further on, here it is the teacher's: a dozen of its
steps are cheap at this size, and such a target is right from the first step. First come the trajectories, from noise
and captions alone, then the learning; both go on where they were.

Written to outputs/fewstep/: trajectories/, the training's checkpoint, and emoji-lcm/, a folder that diffusers loads.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import LCMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from scripts.pretrain.common import ROOT, arguments, read_config, write_atomically, write_json
from scripts.pretrain.convolution import speed_up_wide
from scripts.pretrain.data import Data, load
from scripts.pretrain.draws import chances, integers
from scripts.pretrain.latents import Encoded, load_encoded, shown
from scripts.pretrain.loop import Budget, Objective, Run, train
from scripts.pretrain.unet import begin, build, noises, scheduler, trajectory
from scripts.pretrain.whiten import Whitening, fold, measure

FOLDER = ROOT / "outputs" / "fewstep"
MODEL = FOLDER / "emoji-lcm"


class Trajectories(NamedTuple):
    """What the teacher draws: captions (n,), rows of the text states; latents (n, steps + 1, c, 16, 16) float16, before
    each step and after the last."""

    captions: Tensor
    latents: Tensor


def known_captions(encoded: Encoded, data: Data, latents: dict[str, Any]) -> Tensor:
    """Rows of the text states of what the teacher learnt from: not of emoji that the autoencoder alone saw."""
    scenes = shown(data, latents["silent"], latents["extra"])
    rows = torch.tensor([row for row, scene in enumerate(scenes) if data.uses[scene] == "train"])
    each = torch.arange(encoded.per_scene)
    return (rows[:, None] * encoded.per_scene + each).flatten()


def draw(
    teacher: UNet2DConditionModel,
    encoded: Encoded,
    whitening: Whitening,
    known: Tensor,
    settings: dict[str, Any],
) -> Trajectories:
    """`count` batches of the teacher's trajectories, each in a file of its own; those that are there are read."""
    batches = []
    for number in range(settings["count"]):
        path = FOLDER / "trajectories" / f"{number:04}.pt"
        if not path.exists():
            generator = torch.Generator().manual_seed(settings["seed"] * 10_000 + number)
            captions = known[integers(len(known), settings["batch"], generator)]
            silent = chances(len(captions), generator) < settings["empty"]
            captions = captions.masked_fill(silent, len(encoded.states) - 1)
            states = whitening(encoded.states[captions].float())
            noise = noises(teacher, integers(2**31, len(captions), generator).tolist())
            how = {name: settings[name] for name in ("steps", "guidance", "rescale")}
            found = trajectory(teacher, states, whitening(encoded.empty.float()), noise=noise, **how)
            latents = torch.stack(found, dim=1).half()
            write_atomically(path, partial(torch.save, (captions, latents)))
            print(f"trajectories {number + 1} of {settings['count']}", flush=True)
        batches.append(torch.load(path, weights_only=True))
    return Trajectories(*(torch.cat(part) for part in zip(*batches, strict=True)))


def between(left: Tensor, right: Tensor, angles: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """What a DDIM step from `left` to `right` passes on its way.

    A step keeps its prediction of image and noise, x = cos(a) image + sin(a) noise, so that two of its points give
    every other. `angles` are those of left and right, and the one asked for.
    """
    a, b, asked = angles
    return (torch.sin(asked - b) * left + torch.sin(a - asked) * right) / torch.sin(a - b)


class EndObjective(Objective):
    """One step of learning where trajectories end."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        encoded: Encoded,
        whitening: Whitening,
        drawn: Trajectories,
        config: dict[str, Any],
    ) -> None:
        self.unet, self.encoded, self.whitening, self.drawn, self.config = (
            unet,
            encoded,
            whitening,
            drawn,
            config,
        )
        plan = scheduler()
        plan.set_timesteps(drawn.latents.shape[1] - 1)
        self.angles = plan.alphas_cumprod.sqrt().clamp(max=1).arccos()  # of each timestep
        self.stops = torch.cat(
            [plan.timesteps, torch.tensor([-1])]
        )  # where a trajectory was kept, and its end

    def __call__(self, generator: torch.Generator, choice: Hashable) -> Tensor:
        """The loss of one batch, a pseudo-Huber distance as in LCM."""
        rows = integers(len(self.drawn.captions), self.config["batch"], generator)
        steps = (self.stops[0] * chances(len(rows), generator)).long() + 1
        steps[: int(self.config["first"] * len(rows))] = self.stops[0]
        step = (self.stops[:, None] >= steps).sum(0) - 1  # the last stop at or before each
        left, right, end = (self.drawn.latents[rows, at].float() for at in (step, step + 1, torch.tensor(-1)))
        angle, a = self.angles[steps], self.angles[self.stops[step]]
        b = torch.where(self.stops[step + 1] < 0, 0.0, self.angles[self.stops[step + 1].clamp(min=0)])
        angle, a, b = (each.view(-1, 1, 1, 1) for each in (angle, a, b))
        noisy = between(left, right, (a, b, angle))
        with torch.autocast(noisy.device.type, enabled=False):  # see DenoisingObjective
            states = self.whitening(self.encoded.states[self.drawn.captions[rows]].float())
        v = self.unet(noisy.contiguous(memory_format=torch.channels_last), steps, states).sample.float()
        error = torch.cos(angle) * noisy - torch.sin(angle) * v - end
        c = self.config["huber"]
        return ((error.square() + c * c).sqrt() - c).mean()


def write_model(unet: UNet2DConditionModel, config: dict[str, Any]) -> None:
    """The teacher's folder with this U-Net, the scheduler and the settings that go with it."""
    teacher = ROOT / config["teacher"]
    part = MODEL.with_name("model.part")
    shutil.rmtree(part, ignore_errors=True)
    left_out = shutil.ignore_patterns("unet", "scheduler", "*.png", "README.md", "negative.safetensors")
    shutil.copytree(teacher, part, ignore=left_out)
    unet.to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(part / "unet")
    LCMScheduler.from_config(scheduler().config).save_pretrained(part / "scheduler")
    index = json.loads((part / "model_index.json").read_text())
    write_json(part / "model_index.json", index | {"scheduler": ["diffusers", "LCMScheduler"]})
    write_json(part / "generation_config.json", config["generation"])
    shutil.rmtree(MODEL, ignore_errors=True)
    part.rename(MODEL)


def main() -> None:
    """Run the stage on its own, on the CPU."""
    args = arguments("fewstep", __doc__)
    config, encoded, data = read_config(args.config), load_encoded(), load()
    known = known_captions(encoded, data, read_config(args.config.with_name("latents.yaml")))
    whitening = measure(encoded.states, config["whitening_floor"])
    unet = build(config, encoded.states.shape[-1])
    begin(unet, ROOT / config["teacher"] / "unet", whitening)
    unet.set_attn_processor(AttnProcessor())  # plain: the fused kernel's backward pass is slow
    drawn = draw(unet.eval(), encoded, whitening, known, config["trajectories"])
    speed_up_wide(unet.train())
    run = Run({"unet": unet}, FOLDER, "cpu", Budget(**config["budget"]))

    def look(run: Run) -> None:
        average = copy.deepcopy(run.averages["unet"])
        fold(average, whitening)
        write_model(average, config)

    train(run, EndObjective(unet, encoded, whitening, drawn, config), args.minutes, look)


if __name__ == "__main__":
    main()
