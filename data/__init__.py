"""CIFAR-10, CelebA and drawn faces, one uint8 tensor each; drawings stand in for what is absent.

    cifar = data.load_splits("cifar10", 32)
    print(cifar.train.images.shape, cifar.train.source)

Nothing outside this package reads a dataset's files.
"""

from data.imageset import AbsentError, DataError, ImageSet
from data.loading import HELDOUT, SIDES, SOURCES, Splits, hold_out, load, load_splits

__all__ = ["HELDOUT", "SIDES", "SOURCES", "AbsentError", "DataError", "ImageSet", "Splits",
           "hold_out", "load", "load_splits"]
