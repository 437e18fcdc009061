"""What the tests of this folder share."""

import torch

from lab.embeddings.embedding import Embedding


def embedding_for(bundle, name="toy", vectors=3, seed=0):
    """Random vectors of the scale of the bundle's own token embeddings."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for tower in bundle.towers:
        scale = tower.encoder.get_input_embeddings().weight.std().item()
        made[tower.key] = scale * torch.randn(vectors, tower.width, generator=generator)
    return Embedding(name, made)


def close(first, second, tolerance=1e-5):
    """Float32 sums in another order; hidden states are of the order of 1."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=0, atol=tolerance)
