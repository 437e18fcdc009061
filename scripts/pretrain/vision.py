"""Train the vision tower and the projections that ship beside the text encoder, which stays as it is.

The tower is smaller than the one that taught the text encoder, so that everything fits into 50 MB. Its texts are
the end token's states, computed once for the U-Net: no text goes through the encoder here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from scripts.pretrain.clip import FOLDER as CLIP
from scripts.pretrain.clip import Batches, build, contrast, embed_images, retrieval
from scripts.pretrain.common import WORK, arguments, read_config, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.latents import Encoded, load_encoded
from scripts.pretrain.loop import Budget, Run, train
from scripts.pretrain.tokenizer import FOLDER as TOKENIZER

FOLDER = WORK / "vision"


def end_states(encoded: Encoded, tokenizer: CLIPTokenizer) -> Tensor:
    """(n, d) float32: each caption's state at its end token, which CLIP projects."""
    last = [min(len(ids), encoded.states.shape[1]) - 1 for ids in tokenizer(encoded.captions).input_ids]
    return torch.from_numpy(encoded.states[np.arange(len(last)), last].astype(np.float32))


class Objective:
    """One contrastive step of the vision tower and the projections."""

    def __init__(
        self, model: CLIPModel, states: Tensor, data: Data, config: dict[str, Any], device: str
    ) -> None:
        self.model, self.states, self.device = model, states, device
        self.batches = Batches(data, config["batch"], config["twins"])

    def __call__(self, generator: torch.Generator, share: float) -> Tensor:
        """The loss of one batch."""
        rows = self.batches.rows(generator)
        images = embed_images(self.model, self.batches.images(rows, generator).to(self.device))
        words = F.normalize(self.model.text_projection(self.states[rows].to(self.device)), dim=-1)
        return contrast(self.model, images, words)


def main() -> None:
    """Run the stage."""
    args = arguments("vision", __doc__)
    config, data = read_config(args.config), load()
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(config["budget"]["seed"])  # initial weights only
    model, taught = build(config, tokenizer), CLIPModel.from_pretrained(CLIP / "average")
    model.text_model.load_state_dict(taught.text_model.state_dict())
    model.text_projection.load_state_dict(taught.text_projection.state_dict())
    model.text_model.requires_grad_(False)
    run = Run({"clip": model}, FOLDER, args.device, Budget(**config["budget"]))

    def look(run: Run) -> None:
        run.averages["clip"].save_pretrained(FOLDER / "average")
        top1 = retrieval(run.averages["clip"], tokenizer, data, args.device)
        write_json(FOLDER / "figures.json", {"retrieval_top1": top1, "step": run.step, "minutes": run.spent})
        print(f"unseen pairs, top-1 {top1:.3f}", flush=True)

    states = end_states(load_encoded(), tokenizer)
    train(run, Objective(model, states, data, config, args.device), args.minutes, look)


if __name__ == "__main__":
    main()
