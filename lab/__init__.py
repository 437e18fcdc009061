"""A text-conditioning lab for Stable Diffusion: generate, train embeddings, compare what they do.

The public names are imported when they are first used, so that `import lab` and `lab --help` stay quick.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "InputError": "lab.errors",
    "Bundle": "lab.models.bundle",
    "load": "lab.models.load",
    "Embedding": "lab.embeddings.embedding",
    "read_embedding": "lab.embeddings.read",
    "Conditioning": "lab.condition.conditioning",
    "encode": "lab.condition.encode",
    "GenerateConfig": "lab.sample.config",
    "generate": "lab.sample.generate",
    "CompareConfig": "lab.comparing.config",
    "compare": "lab.comparing.compare",
    "JudgeConfig": "lab.judging.config",
    "judge": "lab.judging.judge",
    "TrainConfig": "lab.training.config",
    "train": "lab.training.train",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lab' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
