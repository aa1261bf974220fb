"""What every loader returns, and what every loader raises."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch


class DataError(Exception):
    """One sentence: what is wrong with which file, and what to do about it."""

class AbsentError(DataError):
    """The dataset is not there at all, so that the stand-in may take its place."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in memory or memory-mapped, with their labels and where they came from."""

    name: str                   # "cifar10", "celeba", "drawn" or "folder"
    split: str                  # "train", "valid" or "test"
    images: torch.Tensor        # (N, 3, H, W) uint8, contiguous
    labels: torch.Tensor        # (N,) int64 classes, or (N, K) bool attributes
    label_names: tuple[str, ...]
    source: str                 # one sentence for the reader
    real: bool                  # False for drawn pictures
    factors: dict[str, torch.Tensor] | None = None      # the truth of drawn pictures, each (N,)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of shape, pixels, order and labels, wherever the images came from."""
        content = hashlib.blake2b(digest_size=8)
        content.update(f"{tuple(self.images.shape)} {tuple(self.labels.shape)}".encode())
        content.update(digest_images(self.images).tobytes())
        content.update(self.labels.numpy().astype("<i8").tobytes())
        return content.hexdigest()

    def take(self, limit: int) -> ImageSet:
        """The first `limit` images; all of them for 0 or when there are no more."""
        if limit == 0 or limit >= len(self):
            return self
        return self.part(slice(0, limit), source=f"the first {limit:,} of: {self.source}")

    def permuted(self, seed: int) -> ImageSet:
        """Every image with its pixel positions in one fixed random order, colours kept together."""
        side = self.images.shape[-1]
        order = torch.from_numpy(np.random.RandomState(seed).permutation(side * side))
        moved = self.images.flatten(2)[:, :, order].view_as(self.images)
        return replace(self, images=moved, source=f"{self.source}, pixel positions permuted")

    def part(self, rows: slice, **changes) -> ImageSet:
        """Some of the images, with what differs in what is said of them."""
        factors = self.factors and {name: value[rows] for name, value in self.factors.items()}
        return replace(self, images=self.images[rows], labels=self.labels[rows],
                       factors=factors, **changes)


def digest_images(images: torch.Tensor | np.ndarray) -> np.ndarray:
    """One digest an image, (N, 16) uint8, of its bytes in the order 3×H×W."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    joined = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in rows)
    return np.frombuffer(joined, np.uint8).reshape(-1, 16)
