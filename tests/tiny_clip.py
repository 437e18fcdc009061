"""A tiny random CLIPModel with its tokenizer, in a folder as such models are published."""

import shutil
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model


def make_clip(folder: Path, tokenizer: Path, width: int = 24, seed: int = 0) -> Path:
    """Saves one in `folder`, with the vocabulary of the tokenizer in `tokenizer`, and returns the folder."""
    from transformers import CLIPTokenizer

    words = CLIPTokenizer.from_pretrained(tokenizer)
    text = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 7}, projection_dim=width
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
    return folder


def make_dino(folder: Path) -> Path:
    """Saves a tiny random DINOv2 in `folder` and returns it."""
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14, mlp_ratio=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    return folder
