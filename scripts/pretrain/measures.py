"""What images are judged by: whether one sees what was asked for, how crisp they are, and how like renderings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.clip import tokens
from scripts.pretrain.judge import Judge
from scripts.pretrain.scene import COLOURS
from scripts.pretrain.vision import embed_images, embed_text

if TYPE_CHECKING:
    from scripts.pretrain.evaluate import Case


@torch.no_grad()
def judged(judge: Judge, names: list[str], wanted: list[Case], images: Tensor) -> dict[str, Tensor]:
    """Which images' object (among all and among its own hundred of `names`), style and background are recognised,
    (n,) bool each; images (n, 3, 128, 128) in [-1, 1]."""
    heads = zip(*(judge(F.avg_pool2d(part, 2)) for part in images.split(64)), strict=True)
    objects, styles, colours = (torch.cat(part) for part in heads)
    truth = torch.tensor([names.index(c.name) for c in wanted])
    hundred = torch.arange(len(names)) // 100
    elsewhere = hundred[None] != hundred[truth][:, None]
    return {
        "object among all": objects.argmax(1) == truth,
        "object among 100": objects.masked_fill(elsewhere, -torch.inf).argmax(1) == truth,
        "style": styles.argmax(1) == torch.tensor([list(STYLES).index(c.style) for c in wanted]),
        "background": colours.argmax(1) == torch.tensor([list(COLOURS).index(c.background) for c in wanted]),
    }


@torch.no_grad()
def clip_top1(
    clip: CLIPModel, tokenizer: CLIPTokenizer, names: list[str], wanted: list[Case], images: Tensor
) -> float:
    """Share of images to whose prompt the shipped CLIP finds them nearest, among the prompts with the other `names`."""
    right = 0
    for style, background in {(c.style, c.background) for c in wanted}:
        texts = [type(wanted[0])(name, style, background, 0).prompt for name in names]
        words = embed_text(clip, tokens(tokenizer, texts, None))
        rows = [i for i, c in enumerate(wanted) if (c.style, c.background) == (style, background)]
        best = (embed_images(clip, F.avg_pool2d(images[rows], 2)) @ words.T).argmax(1).tolist()
        right += sum(names[b] == wanted[i].name for i, b in zip(rows, best, strict=True))
    return right / len(wanted)


@torch.no_grad()
def degraded(network: nn.Module, images: Tensor) -> float:
    """Share of images that are more likely degraded than clean."""
    probability = torch.cat([network(part).softmax(1)[:, 0] for part in images.split(64)])
    return (probability < 0.5).float().mean().item()


@torch.no_grad()
def distance(judge: Judge, images: Tensor, real: Tensor) -> float:
    """How far two sets of images lie apart: 1000 times the squared maximum mean discrepancy of the judge's features.

    As CMMD (arXiv 2401.09603), with the judge for CLIP and the median distance between real ones for the bandwidth.
    """
    x, y = (
        torch.cat([F.normalize(judge.body(F.avg_pool2d(part, 2)), dim=1) for part in found.split(64)])
        for found in (images, real)
    )
    width = torch.pdist(y).median()

    def alike(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(torch.cdist(a, b) ** 2) / (2 * width**2)).mean()

    return 1000 * (alike(x, x) + alike(y, y) - 2 * alike(x, y)).item()


@torch.no_grad()
def nearest_words(clip: CLIPModel, tokenizer: CLIPTokenizer, text: str, count: int) -> list[str]:
    """The vocabulary's whole words nearest to a text, each encoded on its own, the nearest first."""
    words = {n: w.removesuffix("</w>") for w, n in tokenizer.get_vocab().items() if w.endswith("</w>")}
    ids = torch.tensor([[tokenizer.bos_token_id, n, tokenizer.eos_token_id] for n in words])
    vectors = torch.cat([embed_text(clip, part) for part in ids.split(1024)])
    asked = embed_text(clip, tokens(tokenizer, [text], None))
    found = list(words.values())
    return [found[i] for i in (vectors @ asked[0]).topk(count).indices.tolist()]
