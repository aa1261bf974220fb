"""What every loader returns, and what every loader raises."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

DIGEST_BYTES = 16


class DataError(Exception):
    """One sentence: what is wrong with which file, and what to do about it."""


class AbsentError(DataError):
    """The dataset is not there at all, so that the stand-in may take its place."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in memory or memory-mapped, with their labels and where they came from."""

    name: str                   # "cifar10" or "celeba"
    split: str                  # "train", "valid" or "test"
    images: torch.Tensor        # (N, 3, H, W) uint8, contiguous
    labels: torch.Tensor        # (N,) int64 classes, or (N, K) bool attributes
    label_names: tuple[str, ...]
    fingerprint: str            # 16 hex digits of pixels, order, labels and side
    source: str                 # one sentence for the reader
    real: bool                  # False for the stand-in
    factors: dict[str, torch.Tensor] | None = None      # the stand-in's truth, each (N,)
    digests: np.ndarray | None = field(default=None, repr=False)  # (N, 16), one an image

    def __len__(self) -> int:
        return len(self.images)

    def take(self, limit: int) -> ImageSet:
        """The first `limit` images; all of them for 0 or when there are no more."""
        if limit < 0:
            raise DataError(f"limit is {limit}: give a number of images, or 0 for all of them")
        if limit == 0 or limit >= len(self):
            return self
        return self._part(slice(0, limit), source=with_limit(self.source, limit))

    def split_off(self, n: int) -> tuple[ImageSet, ImageSet]:
        """All but the last `n` images, and those last ones as the split "valid"."""
        if not 0 < n < len(self):
            raise DataError(f"{n} images cannot be split off the {len(self)} of {self.name} "
                            f"{self.split}: give a number from 1 to {len(self) - 1}")
        cut = len(self) - n
        held_out = f"the last {n:,} of: {self.source}"
        return (self._part(slice(0, cut), source=f"all but {held_out}"),
                self._part(slice(cut, None), source=held_out, split="valid"))

    def permuted(self, seed: int) -> ImageSet:
        """Every image with its pixel positions in one fixed random order, colours kept together."""
        side = self.images.shape[-1]
        order = torch.from_numpy(np.random.RandomState(seed).permutation(side * side))
        moved = self.images.flatten(2)[:, :, order].view_as(self.images)
        return _signed(replace(self, images=moved, digests=None,
                               source=f"{self.source}, pixel positions permuted"))

    def _part(self, rows: slice, **changes) -> ImageSet:
        factors = self.factors and {name: value[rows] for name, value in self.factors.items()}
        digests = None if self.digests is None else self.digests[rows]
        return _signed(replace(self, images=self.images[rows], labels=self.labels[rows],
                               factors=factors, digests=digests, **changes))


def is_there(path: Path) -> bool:
    """Whether the path exists; a link on it that leads nowhere is an error, not an absence."""
    try:
        path.stat()
    except FileNotFoundError:
        for link in (path, *path.parents):
            if link.is_symlink() and not link.exists():
                raise DataError(f"{link} is a link to {link.resolve()}, which is not there: "
                                "restore what it leads to, or remove the link") from None
        return False
    return True


def image_set(**fields) -> ImageSet:
    """An ImageSet of these fields, with its fingerprint, and its digests where none are given."""
    return _signed(ImageSet(fingerprint="", **fields))


def with_limit(source: str, limit: int) -> str:
    """The sentence on the source, for the first `limit` images only."""
    return f"the first {limit:,} of: {source}"


def digest_images(images: torch.Tensor | np.ndarray) -> np.ndarray:
    """One digest an image, (N, 16) uint8, of its bytes in the order 3×H×W."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    joined = b"".join(hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in rows)
    return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)


def _signed(made: ImageSet) -> ImageSet:
    """The same set with the digests and the fingerprint that its content has."""
    digests = digest_images(made.images) if made.digests is None else made.digests
    content = hashlib.blake2b(digest_size=8)
    content.update(f"{tuple(made.images.shape)} {tuple(made.labels.shape)}".encode())
    content.update(digests.tobytes())
    content.update(made.labels.numpy().astype("<i8").tobytes())
    return replace(made, digests=digests, fingerprint=content.hexdigest())
