"""A dataset by its name: its files, the stand-in for them, drawn faces, or one's own pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from data import celeba, cifar10, folder, standin
from data.imageset import AbsentError, DataError, ImageSet

SIDES = {"cifar10": (32,), "celeba": (64, 32, 128), "drawn": (32, 64, 128),      # usual first
         "folder": (32, 64, 128)}
SPLITS = {name: tuple(most) for name, most in standin.MOST.items()} | {
    "folder": ("train", "test")}
SOURCES = ("auto", "real", "standin")
HELDOUT = 2_000         # the last training images of CIFAR-10, where something is chosen on them

Progress = Callable[[int, int, str], None]


def load(name: str, split: str = "train", side: int | None = None, limit: int = 0,
         source: str = "auto", root: str | Path = "data", download: bool = False,
         crop: bool = True, progress: Progress | None = None) -> ImageSet:
    """The images of one split, at most `limit` of them (0: all), in an order that never changes.

    `source` "real" insists on the dataset's files under `root`, "standin" draws pictures, and
    "auto" takes the files where they lie and draws otherwise; "drawn" has no files and is always
    drawn, and "folder" is all pictures under `root`, which nothing stands in for. `download`
    fetches CIFAR-10 where it is absent; CelebA has to be put there by hand.
    `crop` False squeezes the whole of a face's photograph into the square (drawn pictures have
    nothing around their faces). `progress(done, total, what)` is called now and then.
    """
    side = SIDES.get(name, (0,))[0] if side is None else side
    _check_request(name, split, side, limit, source)
    progress = progress or (lambda done, total, what: None)
    if name == "drawn" or source == "standin" and name != "folder":
        return standin.draw(name, split, side, limit, progress)
    try:
        if name == "folder":
            return folder.load(split, side, limit, Path(root), progress)
        if name == "cifar10":
            return cifar10.load(split, limit, Path(root), download, progress)
        return celeba.load(split, side, limit, Path(root), crop, progress)
    except AbsentError as absent:
        if source == "real":
            raise
        return standin.draw(name, split, side, limit, progress, because=str(absent))
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be used ({error.strerror or error}): see "
                        "that it is there, that there is room, and that you may read and write it"
                        ) from error


def _check_request(name: str, split: str, side: int, limit: int, source: str) -> None:
    """Refuses what cannot be asked for, in a sentence that says what can."""
    for what, value, known in [
            ("dataset", name, tuple(SIDES)), ("split", split, SPLITS.get(name, ())),
            ("source", source, SOURCES), ("side", side, SIDES.get(name, ()))]:
        if value not in known:
            raise DataError(f"{what} is {value!r}: take one of {', '.join(map(repr, known))}")
    if not isinstance(limit, int) or limit < 0:
        raise DataError(f"limit is {limit!r}: give a whole number, 0 or more")


# ---- what a recipe trains on, chooses by and is tested on

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
    n = min(HELDOUT, len(train) // 5)
    if n == 0:
        raise DataError(f"{len(train)} images of {train.name} are too few to hold out a fifth of "
                        "them: give 5 or more")
    last = f"the last {n:,} of: {train.source}"
    return (train.part(slice(0, -n), source=f"all but {last}"),
            train.part(slice(-n, None), source=last, split="valid"))


def load_splits(name: str, side: int, *, chosen: bool = False, limit: int = 0,
                source: str = "auto", **options) -> Splits:
    """The splits of a dataset, at most `limit` training images and a fifth as many others.

    `chosen` says that something is chosen on held-out images: CIFAR-10 then holds out the last of
    its training images. The other datasets always hold out their validation split. The options are
    those of `load`: root, download, crop, progress.
    """
    train = load(name, "train", side, limit, source, **options)
    source = "real" if train.real else "standin"        # one source for all of them
    fewer = max(limit // 5, 100) if limit else 0
    test = load(name, "test", side, fewer, source, **options)
    if "valid" in SPLITS[name]:
        return Splits(train, load(name, "valid", side, fewer, source, **options), test)
    return Splits(*hold_out(train), test) if chosen else Splits(train, None, test)
