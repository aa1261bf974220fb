"""CIFAR-10 and CelebA as one uint8 tensor each, or drawn pictures that stand in for them.

    cifar = data.load_splits("cifar10", 32)
    print(cifar.train.images.shape, cifar.train.source)

Nothing outside this package reads a dataset's files.
"""

from __future__ import annotations

from data.imageset import AbsentError, DataError, ImageSet, image_set
from data.loading import SIDES, SOURCES, load
from data.splits import HELDOUT, Splits, hold_out, load_splits

__all__ = ["HELDOUT", "SIDES", "SOURCES", "AbsentError", "DataError", "ImageSet", "Splits",
           "hold_out", "image_set", "load", "load_splits"]
