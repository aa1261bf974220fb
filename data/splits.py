"""What a recipe trains on, chooses by and is tested on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from data.imageset import ImageSet
from data.loading import Progress, load

HELDOUT = 2_000         # the last training images of CIFAR-10, where something is chosen on them


class Splits(NamedTuple):
    """The three sets of one dataset, all of them its own images or all of them drawn."""

    train: ImageSet
    heldout: ImageSet | None    # None where nothing is chosen
    test: ImageSet

    def permuted(self, seed: int) -> Splits:
        """The same sets, the pixel positions of every image in one fixed random order."""
        return Splits(*(None if each is None else each.permuted(seed) for each in self))


def hold_out(train: ImageSet) -> tuple[ImageSet, ImageSet]:
    """All but the last HELDOUT images, or all but a fifth of a small set, and those last ones."""
    return train.split_off(min(HELDOUT, len(train) // 5))


def load_splits(name: str, side: int, *, chosen: bool = False, limit: int = 0,
                source: str = "auto", root: str | Path = "data", download: bool = False,
                crop: bool = True, progress: Progress | None = None) -> Splits:
    """The splits of a dataset, at most `limit` training images and a fifth as many others.

    `chosen` says that something is chosen on held-out images: CIFAR-10 then holds out the last of
    its training images. CelebA always holds out its official validation split. The rest is as in
    `load`.
    """
    def get(split: str, n: int) -> ImageSet:
        return load(name, split, side, n, source, root, download, crop=crop, progress=progress)

    train = get("train", limit)
    source = "real" if train.real else "standin"        # one source for all of them
    fewer = max(limit // 5, 100) if limit else 0
    test = get("test", fewer)
    if name == "celeba":
        return Splits(train, get("valid", fewer), test)
    return Splits(*hold_out(train), test) if chosen else Splits(train, None, test)
