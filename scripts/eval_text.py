"""How much of a text a few vectors do, in prompt embeddings and in images, on the bundled model.

    python -m scripts.eval_text [--images 24] [--out outputs/eval-text]

Prints what 1, 2, 4 and 8 vectors do of a negative prompt in contexts that were kept apart; then, of prompt embeddings
that stand for no prompt (the mean of four negative prompts' with noise, as a bare tensor) and of an encoded prompt with
weights, what 1 and 8 vectors do in prompt embeddings and, as the negative prompt of `lab judge`'s prompts, in images of
ten denoising steps.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

import lab
from lab.condition.embeds_file import write_embeds
from lab.judging.config import LISTS, WORDS
from lab.listening import Listener

PARTS = ("blurry, pixelated", "low quality photo", "washed out, noisy", "bad art, ugly")
WEIGHTED = "(blurry:1.4), (pixelated:1.2), noisy, washed out, (low quality:1.3)"


class Verdicts(Listener):
    """Prints what a run says of the vectors that it kept, and of several numbers of them."""

    def note(self, line: str) -> None:
        """Prints a line on how much of the text they do."""
        if "they do" in line:
            print("  " + line.partition("are kept. ")[2], flush=True)
        elif "% of what" in line:
            print("  " + line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("outputs/eval-text"))
    arguments = parser.parse_args()
    bundle, out = lab.load("emoji"), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    common = {"objective": "text", "name": "stands-in", "preview_every": 0, "listener": Verdicts()}
    print(f"text: {WORDS}")
    lab.train(bundle, text=WORDS, vectors="1,2,4,8", out=out / "text", **common)
    mean = torch.stack([lab.encode(bundle, part).embeds for part in PARTS]).mean(dim=0)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    save_file({"embeds": mean + 0.1 * mean.std() * noise}, out / "bare.safetensors")
    write_embeds(out / "weighted.safetensors", lab.encode(bundle, WEIGHTED), {})
    measured = {"prompt_file": LISTS / "emoji.txt", "measured": arguments.images, "sampling_steps": 10}
    for kind in ("bare", "weighted"):
        for count in (1, 8):
            print(f"{kind} embeddings, {count} vectors")
            file = out / f"{kind}.safetensors"
            lab.train(bundle, embeds=file, vectors=count, out=out / f"{kind}-{count}", **common, **measured)


if __name__ == "__main__":
    main()
