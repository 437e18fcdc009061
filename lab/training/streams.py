"""Random streams by name: what is drawn for an example depends on the seed and its place alone.

So a resumed run, and a run over several processes, draw what one uninterrupted process would have drawn, and no
state of a generator has to be saved.
"""

import hashlib

import torch


def stream(seed: int, *place: object) -> torch.Generator:
    """A CPU generator for one place, such as (step, slot), of a run."""
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little"))
