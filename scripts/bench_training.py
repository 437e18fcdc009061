"""How fast the lab learns an embedding, against a loop of the stock kind on the same weights, images and batch.

    python -m scripts.bench_training [--steps 10] [--batch-size 4]           # steps/s and memory, the bundled model
    python -m scripts.bench_training --shape sd15 --batch-size 1 --steps 2    # random weights of SD 1.5's shape, 256 px
    python -m scripts.bench_training --quality [--images FOLDER ...] [--whole] [--longest 3000]
                                                                             # time to equal quality, the bundled model

For speed, both sides take turns in this one process, so that a machine that changes its speed does so for both; with
them the floor: one pass of a batch through text encoder and U-Net, and back to the text's states.

For quality, the lab learns by configs/train/emoji-object.yaml until it stops by itself. The stock loop learns as many
vectors, all of which begin at one word, as that script's initializer token does (--stock-init; `auto` gives it what the
lab found by looking at the images). It goes on until its vectors are as good and stay so for four looks: by the loss on
the lab's fixed examples, by the likeness of generated images to drawings kept apart, as scripts/eval_training.py judges
it, and by both at once. With --whole it makes all the steps of that script's README, which nothing tells when to stop.
Only training counts as time, up to the first of the four looks. Of several things the medians are printed too; one that
the loop never equalled counts with the time that it was given.
"""

import argparse
import operator
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import lab
from lab.models.bundle import Bundle, TextTower
from lab.models.config import ModelOptions
from lab.models.device import arrange_modules
from lab.models.load import load_options
from lab.models.patches import frozen
from lab.score.clip import image_features
from lab.training.loop import Loop
from lab.training.prepare import PreparedRun, prepare
from scripts.bench_generate import peak, reset_peak
from scripts.eval_training import features, generate, similarity
from scripts.obedience import JudgeOfRenderings
from scripts.stock_training import STEPS, Stock
from scripts.things import KEPT_APART, fill_all, read_contexts

IMAGES = Path("lab/assets/samples/hot-dog")
RECIPE = Path("configs/train/emoji-object.yaml")
AS_GOOD = {"loss": operator.le, "similarity": operator.ge}
BOTH = "quality (loss and similarity at once)"
CHECK_EVERY = 50  # steps of the stock loop between two looks at its quality
STAYS = 4  # looks in a row that find it as good: single ones do by chance

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=("emoji", "sd15"), default="emoji")
    parser.add_argument("--images", type=Path, nargs="+", default=[IMAGES], help="several with --quality")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "both"), default="both")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="rounds; each side makes one step in each")
    parser.add_argument("--quality", action="store_true", help="time to equal quality (emoji, float32)")
    parser.add_argument("--stock-init", default="text:object", help="the stock loop's first vectors")
    parser.add_argument("--whole", action="store_true", help="lets the stock loop make all its steps")
    parser.add_argument(
        "--longest", type=int, default=STEPS, help="steps of the stock loop before it gives up"
    )
    arguments = parser.parse_args()
    if arguments.quality:
        measure_quality(arguments)
    else:
        measure_speed(arguments)


def measure_speed(arguments: argparse.Namespace) -> None:
    """Steps a second and memory in each precision."""
    took: dict[str, dict[str, float]] = {}
    for dtype in ("float32", "bfloat16") if arguments.dtype == "both" else (arguments.dtype,):
        options = ModelOptions(dtype=dtype)
        bundle = load_options(options) if arguments.shape == "emoji" else sd15_shape(options)
        with tempfile.TemporaryDirectory() as out, frozen(bundle):
            config = lab.TrainConfig(
                images=arguments.images[0],
                batch_size=arguments.batch_size,
                out=Path(out),
                name="my-thing",
                vectors=4,
                init="text:a thing",
                evaluate_every=10**6,
            )
            took[dtype] = compare_speed(prepare(bundle, config), arguments.steps)
    if len(took) == 2:
        ratio = took["float32"]["stock"] / took["bfloat16"]["lab"]
        print(f"the lab in bfloat16 makes {ratio:.2f} times the steps of the stock loop in float32")


def measure_quality(arguments: argparse.Namespace) -> None:
    """Time to equal quality of each thing, and the medians."""
    bundle, found = load_options(ModelOptions(dtype="float32")), []
    for images in arguments.images:
        print(f"{images}:")
        with tempfile.TemporaryDirectory() as out, frozen(bundle):
            same = {"images": images, "batch_size": arguments.batch_size, "out": Path(out)}
            run = prepare(bundle, lab.TrainConfig.read(RECIPE, same))
            found.append(compare_quality(run, images.name, arguments))
    if len(found) > 1:
        for name in found[0]:
            median = statistics.median(each[name] for each in found)
            print(f"to equal {name}, median of {len(found)} things: {median:.1f} times the lab's time")


def sd15_shape(options: ModelOptions) -> Bundle:
    """Random weights of the shape of Stable Diffusion 1.5, at 256 px; the vocabulary is the bundled model's."""
    emoji, dtype = lab.load("emoji", dtype="float32"), getattr(torch, options.dtype)
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
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).to(dtype)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks)
    bundle = Bundle(
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
        dtype=dtype,
        options=options,
        weights=(),
        defaults=type(emoji.defaults)(width=256, height=256),
    )
    arrange_modules(bundle)
    return bundle


def lab_loop(run: PreparedRun) -> Loop:
    """The lab's loop, before its images are encoded."""
    return Loop(run.objective, run.learned, run.config, Accelerator(cpu=run.bundle.device.type == "cpu"))


def compare_speed(run: PreparedRun, turns: int) -> dict[str, float]:
    """Prints steps a second and peak memory, taking turns, and returns the seconds of a step."""
    bundle, loop, stock = run.bundle, lab_loop(run), Stock(run)
    run.objective.start(run.learned)
    sides: dict[str, Callable[[], object]] = {
        "floor": lambda: floor(bundle, stock),
        "stock": stock.step,
        "lab": lambda: loop.run(interrupted=lambda: True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, step in sides.items():
            before = reset_peak()
            began = time.perf_counter()
            step()
            if turn > 0:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
                memory[name].append((peak() - before) / 2**20)
    width, precision = stock.data.views[0].bucket.width, str(bundle.dtype).removeprefix("torch.")
    print(f"{bundle.source}, {width} px, batch {run.config.batch_size}, {precision}:")
    took = {name: statistics.median(each) for name, each in seconds.items()}
    for name in sides:
        print(f"  {name:6} {1 / took[name]:7.3f} steps/s, peak {max(memory[name]):6.0f} MB more")
    for name, than in (("stock", "the stock loop's"), ("floor", "the floor's")):
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["lab"], strict=True))
        print(f"  the lab makes {ratio:.2f} times {than} steps")
    return took


def floor(bundle: Bundle, stock: Stock) -> None:
    """What learning takes at the least: forward through both networks, and back to the text's states."""
    batch_size, side = stock.run.config.batch_size, bundle.defaults.width // bundle.vae_scale
    pad = bundle.towers[0].pad_token_id
    ids = torch.full((batch_size, stock.encoder.length), pad, device=bundle.device)
    shape = (batch_size, stock.unet.config.in_channels, side, side)
    latents = torch.randn(shape, device=bundle.device, dtype=bundle.dtype)
    with torch.no_grad():
        states = stock.encoder.module(ids)[0].to(bundle.dtype)
    states.requires_grad_()
    stock.unet(latents, torch.tensor(500), states).sample.float().square().mean().backward()


def compare_quality(run: PreparedRun, thing: str, arguments: argparse.Namespace) -> dict[str, float]:
    """The stock loop's time until it is as good as the lab when that stops by itself, in times of the lab's time."""
    begun = prepare(run.bundle, run.config.model_copy(update={"init": arguments.stock_init}))
    loop, stock = lab_loop(run), Stock(begun)
    likeness = similarity_to_kept_apart(run.bundle, thing)

    def quality(embedding: lab.Embedding) -> dict[str, float]:
        loop.learned.restore({f"{embedding.name}/{key}": rows for key, rows in embedding.vectors.items()})
        return {"loss": loop.evaluate()["loss"], "similarity": likeness(embedding)}

    encoding, _ = timed(lambda: run.objective.start(run.learned))
    learning, ending = timed(loop.run)
    ours = encoding + learning
    goals = quality(loop.learned.embeddings(loop.state.best)[0])
    print(f"lab: {loop.state.step} steps, {ours:.0f} s, {described(goals)}; {ending.reason}", flush=True)
    theirs, looks = 0.0, list[float]()
    since = dict.fromkeys((*goals, BOTH), 0)  # the first look from which on it was as good

    def steps() -> None:
        for _ in range(CHECK_EVERY):
            stock.step()

    def stays(name: str) -> bool:
        return len(looks) - since[name] >= STAYS

    while (arguments.whole or not stays(BOTH)) and stock.step_number < arguments.longest:
        theirs += timed(steps)[0]
        looks.append(theirs)
        now = quality(stock.embedding())
        print(f"stock: {stock.step_number} steps, {theirs:.0f} s, {described(now)}", flush=True)
        reached = {name: as_good(now[name], goals[name]) for name, as_good in AS_GOOD.items()}
        reached[BOTH] = all(reached.values())
        since |= {name: len(looks) for name, there in reached.items() if not there}
    needed = {name: looks[since[name]] for name in since if stays(name)}
    found = {name: needed.get(name, theirs) / ours for name in since}
    for name, times in found.items():
        missed = "" if name in needed else f", more: not reached in {stock.step_number} steps"
        print(f"to equal {name}: {times:.1f} times the lab's time{missed}", flush=True)
    if arguments.whole:
        print(
            f"all {stock.step_number} steps: {theirs / ours:.1f} times the lab's time, for {described(now)}"
        )
    return found


def similarity_to_kept_apart(bundle: Bundle, name: str) -> Callable[[lab.Embedding], float]:
    """A function: how like the drawings kept apart the images are that are generated with an embedding."""
    judge = JudgeOfRenderings()
    apart, contexts = image_features(judge, sorted((KEPT_APART / name).glob("*.png"))), read_contexts(name)

    def measure(embedding: lab.Embedding) -> float:
        images = generate(bundle, fill_all(contexts, f"<{embedding.name}>"), [embedding])
        return similarity(features(judge, images), apart)

    return measure


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and the result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def described(values: dict[str, float]) -> str:
    return f"fixed-batch loss {values['loss']:.4f}, similarity {values['similarity']:.3f}"


if __name__ == "__main__":
    main()
