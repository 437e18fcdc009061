"""What a command needs to know when several processes run it together."""

import os


def own_device(device: str) -> str:
    """Under torchrun or accelerate launch, each process takes the GPU of its number."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank and device in ("auto", "cuda") and torch.cuda.is_available() else device


def is_first() -> bool:
    """Whether this process is the one that talks to the person at the keyboard."""
    return os.environ.get("RANK", "0") == "0"
