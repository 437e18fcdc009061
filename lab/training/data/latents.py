"""Encoded images: each view once, as mean and standard deviation of the VAE's posterior, from which steps sample."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from lab.files import atomic
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.device import to_device
from lab.sample.pixels import posterior
from lab.training.config import TrainConfig
from lab.training.data.pictures import Picture, View, load_regions, load_view

REGION = "region/"
"""Begins the keys of regions of single embeddings."""


class Latents:
    """The encoded views of a run, in memory or, with a folder, on disk.

    Files are keyed by content: image, mask, cut, background and VAE. Another run finds what it can use of them.
    """

    def __init__(
        self, bundle: Bundle, pictures: Sequence[Picture], views: Sequence[View], config: TrainConfig
    ):
        self._bundle = bundle
        self._config = config
        self._views = [(pictures[view.picture], view) for view in views]
        self._memory: dict[int, dict[str, Tensor]] = {}
        self._vae_hash = _weights_hash(bundle.vae) if config.latents else ""

    def encode_all(self, listener: Listener = Listener()) -> None:
        """Encodes every view that is not there yet.

        Raises:
            InputError: an image that changed since it was checked, or a mask that leaves nothing.
        """
        for index, (picture, view) in enumerate(self._views):
            entry = self._read(index) if self._config.latents else None
            if entry is None:
                entry = self._encode(picture, view)
                self._write(index, entry)
            if not self._config.latents:
                self._memory[index] = {
                    key: to_device(value, self._bundle.device) for key, value in entry.items()
                }
            listener.progress(index + 1, len(self._views), "images encoded")

    def get(self, index: int) -> dict[str, Tensor]:
        """What a view was encoded to.

        Returns:
            `mean` and `std` of the posterior, (c, h, w) float32 in the U-Net's scale on the bundle's device; `weight`
            (h, w) in 0..1 where the loss is weighted by a mask or by transparency; and `region/NAME`, likewise, for
            each embedding that has a mask of its own.

        Raises:
            InputError: a file that is gone from the folder of latents, and whose image has changed since.
        """
        if index in self._memory:
            return self._memory[index]
        entry = self._read(index)
        if entry is None:
            entry = self._encode(*self._views[index])
            self._write(index, entry)
        return {key: to_device(value, self._bundle.device) for key, value in entry.items()}

    def _encode(self, picture: Picture, view: View) -> dict[str, Tensor]:
        pixels, weight = load_view(picture, view, self._config)
        mean, std = posterior(self._bundle, pixels[None])
        entry = {"mean": mean[0], "std": std[0]}
        masks = {f"{REGION}{name}": region for name, region in load_regions(picture, view).items()}
        masks |= {} if weight is None else {"weight": weight}
        for key, mask in masks.items():
            entry[key] = F.interpolate(mask[None, None], size=mean.shape[-2:], mode="area")[0, 0]
        return entry

    def _path(self, index: int) -> Path:
        picture, view = self._views[index]
        cut = (view.bucket.width, view.bucket.height, view.left, view.top, view.flipped)
        seen = (self._config.background, self._config.alpha, self._vae_hash)
        masks = picture.masks
        apart = (
            ["apart"] if masks.regions and not masks.weighing(picture.names) else []
        )  # what else weighs the loss
        key = repr((picture.sha256, masks.sha256, *apart, cut, seen))
        assert self._config.latents is not None
        return self._config.latents / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def _read(self, index: int) -> dict[str, Tensor] | None:
        try:
            return safetensors.torch.load_file(self._path(index))
        except (OSError, SafetensorError):  # not there, or cut short: encoded again
            return None

    def _write(self, index: int, entry: dict[str, Tensor]) -> None:
        if self._config.latents:
            with atomic(self._path(index)) as temporary:
                safetensors.torch.save_file(
                    {key: value.cpu().contiguous() for key, value in entry.items()}, temporary
                )


def _weights_hash(module: torch.nn.Module) -> str:
    """The SHA-256 of a module's weights, by which another VAE's latents are told from this one's."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
