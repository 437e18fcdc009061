"""Each kind of file that the lab reads: how it is made, and how it is read."""

import contextlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

import lab
from lab.cli.main import main as command_line
from lab.comparing.config import CompareConfig
from lab.comparing.experiment import Experiment
from lab.errors import InputError
from lab.images import load_image
from lab.models.bundle import Bundle
from lab.sample.config import requests
from lab.search.config import SearchConfig
from lab.search.search import search
from lab.training.config import TrainConfig
from lab.training.prepare import describe_run
from tests.ldm import write_checkpoint
from tests.tiny import make_model


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        files: Patterns of the files in the prepared folder that are mutated, one a case.
        prepare: Writes the files as they should be into a folder.
        use: Reads them from a folder of that content.
    """

    files: tuple[str, ...]
    prepare: Callable[[Path], None]
    use: Callable[[Path], Any]


def kinds_around(home: Path) -> dict[str, Kind]:
    """Every kind of file by its name, around one small model that is made in a folder."""
    kinds = _Kinds(home)
    names = [name for name in dir(kinds) if name.startswith("_kind_")]
    return {name.removeprefix("_kind_"): getattr(kinds, name)() for name in names}


class _Kinds:
    def __init__(self, home: Path):
        self.model = make_model(home / "sd1", "sd1", seed=1)
        self.bundle = lab.load(str(self.model), device="cpu")

    def _kind_model(self) -> Kind:
        def prepare(folder: Path) -> None:
            shutil.copytree(self.model, folder, dirs_exist_ok=True)
            (folder / "generation_config.json").write_text('{"steps": 2, "guidance": 3.5}')

        return Kind(("*/*.json", "*.json", "*/*.safetensors"), prepare, _use_model)

    def _kind_checkpoint(self) -> Kind:
        def prepare(folder: Path) -> None:
            write_checkpoint(self.bundle, folder / "x.safetensors")

        def use(folder: Path) -> None:
            _image(lab.load(f"file:{folder}/x.safetensors", device="cpu", config_folder=str(self.model)))

        return Kind(("x.safetensors",), prepare, use)

    def _kind_lora(self) -> Kind:
        def prepare(folder: Path) -> None:
            layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
            down, up = torch.randn(2, 32), torch.randn(32, 2)
            tensors = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
            save_file(tensors, folder / "x.safetensors")

        def use(folder: Path) -> None:
            _image(lab.load(str(self.model), device="cpu", lora=[str(folder / "x.safetensors")]))

        return Kind(("x.safetensors",), prepare, use)

    def _kind_run(self) -> Kind:
        def use(folder: Path) -> None:
            lab.generate(self.bundle, prompt=["a cat", "a dog"], **_SMALL, out=folder)

        return Kind(("*.yaml", "*.sha256", "*.json", "0*.png"), use, use)

    def _kind_comparison(self) -> Kind:
        def use(folder: Path) -> None:
            axes = {"negative_prompt": ["", "blurry"]}
            lab.compare(
                self.bundle, prompts=["a cat"], axes=axes, metrics=["sharpness"], **_SMALL, out=folder
            )

        return Kind(("*.yaml", "*.sha256", "cells/*.json", "cells/*.png"), use, use)

    def _kind_training(self) -> Kind:
        def prepare(folder: Path) -> None:
            _pictures(folder / "images")
            lab.train(self.bundle, **self._training(folder), steps=2, save_every=1, out=folder / "run")

        def use(folder: Path) -> None:
            lab.train(self.bundle, resume=folder / "run", images=folder / "images", steps=3)

        files = ("run/*.yaml", "run/*.sha256", "run/*.jsonl", "run/checkpoints/state.safetensors")
        return Kind((*files, "run/thing.safetensors"), prepare, use)

    def _kind_data(self) -> Kind:
        def prepare(folder: Path) -> None:
            _pictures(folder)
            (folder / "a.txt").write_text("a photo of <thing>\nthe {name} on white\n")
            Image.new("L", (40, 40), 255).save(folder / "a.mask.png")
            (folder / "templates.yaml").write_text("- a photo of {name}\n- '{words} like {name}'\n")

        def use(folder: Path) -> None:
            templates = [str(folder / "templates.yaml")]
            settings = self._training(folder) | {"images": folder, "templates": templates}
            list(describe_run(self.bundle, TrainConfig(**settings, steps=2)))

        return Kind(("*.txt", "*.png", "*.yaml"), prepare, use)

    def _training(self, folder: Path) -> dict[str, Any]:
        return {"images": folder / "images", "name": "thing", "resolution": 32, "seed": 1}

    def _kind_record(self) -> Kind:
        def prepare(folder: Path) -> None:
            (made,) = lab.generate(self.bundle, prompt="a cat", **_SMALL, out=folder / "out")
            assert made.path is not None
            shutil.copy(made.path, folder / "x.png")

        return Kind(("x.png",), prepare, lambda folder: _command("rerun", folder / "x.png"))

    def _kind_embedding(self) -> Kind:
        def prepare(folder: Path) -> None:
            made = lab.Embedding("thing", {"clip": torch.randn(2, 32)})
            made.save(folder / "one.safetensors")
            made.save(folder / "two.bin")
            made.save(folder / "three.pt", layout="a1111")

        def use(folder: Path) -> None:
            for name in ("one.safetensors", "two.bin", "three.pt"):
                _command("inspect", folder / name)
                _command("convert", folder / name, folder / "out.safetensors")
                _image(self.bundle, prompt=f"a <{Path(name).stem}>", embeddings=[folder / name])

        return Kind(("*.safetensors", "*.bin", "*.pt"), prepare, use)

    def _kind_embeds(self) -> Kind:
        def prepare(folder: Path) -> None:
            prompt = "a [cat:dog:0.5]"
            _command("encode", prompt, "--model", self.model, "--steps", 2, "--out", folder / "x.safetensors")

        def use(folder: Path) -> None:
            lab.generate(self.bundle, embeds=folder / "x.safetensors", **_SMALL)

        return Kind(("x.safetensors",), prepare, use)

    def _kind_prompts(self) -> Kind:
        def prepare(folder: Path) -> None:
            (folder / "x.txt").write_text("# prompts\na (red:1.2) apple\n[cat:dog:0.5], <b>\n\na BREAK b\n")

        def use(folder: Path) -> None:
            embeddings = [lab.Embedding("b", {"clip": torch.ones(1, 32)})]
            lab.generate(self.bundle, prompt_file=folder / "x.txt", embeddings=embeddings, **_SMALL)

        return Kind(("x.txt",), prepare, use)

    def _kind_yaml(self) -> Kind:
        def prepare(folder: Path) -> None:
            where = f"model: {self.model}\n"
            (folder / "generate.yaml").write_text(f"{where}prompt: [a cat, a dog]\nseeds: 1-2\nsteps: 2\n")
            axes = "axes: {guidance: 1-3, negative_prompt: ['', blurry]}\nbaseline: {guidance: 2}\n"
            (folder / "compare.yaml").write_text(
                f"{where}prompts: [a cat]\n{axes}steps: 2\nmetrics: [sharpness]\n"
            )
            learn = "name: thing\nsteps: 2\nobjective: concept\ncaptions: auto\nlearning_rate: 0.01\n"
            (folder / "train.yaml").write_text(where + learn)
            (folder / "search.yaml").write_text(f"{where}text: [a cat]\nover: [vocabulary]\ntop: 3\n")

        def use(folder: Path) -> None:
            requests(lab.GenerateConfig.read(folder / "generate.yaml"))
            Experiment(CompareConfig.read(folder / "compare.yaml"))
            TrainConfig.read(folder / "train.yaml").to_yaml()
            SearchConfig.read(folder / "search.yaml").to_yaml()

        return Kind(("*.yaml",), prepare, use)

    def _kind_index(self) -> Kind:
        def prepare(folder: Path) -> None:
            (folder / "p.txt").write_text("a cat\na dog\na red apple\n")
            use(folder)

        def use(folder: Path) -> None:
            search(self.bundle, over=[f"prompts:{folder}/p.txt"], text=["a cat"], index=folder / "index")

        return Kind(("index/*",), prepare, use)

    def _kind_image(self) -> Kind:
        def prepare(folder: Path) -> None:
            image = Image.linear_gradient("L").resize((24, 24))
            for form in ("png", "jpg", "webp", "gif", "bmp", "tiff"):
                image.save(folder / f"x.{form}")
            image.convert("I;16").save(folder / "deep.png")

        return Kind(("*",), prepare, lambda folder: [load_image(path) for path in sorted(folder.iterdir())])


_SMALL: dict[str, Any] = {"steps": 2, "width": 16, "height": 16, "seeds": [1]}


def _use_model(folder: Path) -> None:
    _command("models", folder)
    _image(lab.load(str(folder), device="cpu"))


def _image(bundle: Bundle, prompt: str = "a cat", **more: Any) -> None:
    lab.generate(bundle, prompt=prompt, **_SMALL, **more)


def _pictures(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(("a", "b")):
        Image.linear_gradient("L").rotate(90 * number).resize((40, 40)).save(folder / f"{name}.png")


def _command(*arguments: Any) -> None:
    """A command as on the command line, in this process; exit code 2 is an InputError."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        code = command_line([str(argument) for argument in arguments])
    if code == 2:
        raise InputError(told.getvalue().strip())
