"""One split of a dataset by its name: the dataset's own files, or the stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from data import celeba, cifar10, standin
from data.imageset import AbsentError, DataError, ImageSet

SIDES = {"cifar10": (32,), "celeba": (64, 32, 128)}  # the first is what side=None means
SPLITS = {"cifar10": ("train", "test"), "celeba": ("train", "valid", "test")}
SOURCES = ("auto", "real", "standin")

Progress = Callable[[int, int, str], None]


def load(name: str, split: str = "train", side: int | None = None, limit: int = 0,
         source: str = "auto", root: str | Path = "data", download: bool = False, seed: int = 0,
         crop: bool = True, progress: Progress | None = None) -> ImageSet:
    """The images of one split, at most `limit` of them (0: all), in an order that never changes.

    `source` "real" insists on the dataset's files under `root`, "standin" draws pictures from
    `seed`, and "auto" takes the files where they lie and draws otherwise. `download` fetches
    CIFAR-10 where it is absent; CelebA has to be put there by hand. `crop` False squeezes the whole
    of a face's photograph into the square (the stand-in has nothing around its faces).
    `progress(done, total, what)` is called now and then while something takes long.
    """
    side = SIDES.get(name, (0,))[0] if side is None else side
    _check_request(name, split, side, limit, source, seed)
    progress = progress or _silent
    if source == "standin":
        return standin.draw(name, split, side, limit, seed, progress)
    try:
        with _naming_the_file(root):
            if name == "cifar10":
                return cifar10.load(split, limit, Path(root), download, progress)
            return celeba.load(split, side, limit, Path(root), crop, progress)
    except AbsentError as absent:
        if source == "real":
            raise
        return standin.draw(name, split, side, limit, seed, progress, because=str(absent))


@contextlib.contextmanager
def _naming_the_file(root: str | Path):
    """Turns every trouble with a file into one DataError that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be used ({error.strerror or error}): "
                        "see that it is there and that you may read it") from error


def _check_request(name: str, split: str, side: int, limit: int, source: str, seed: int) -> None:
    """Refuses what cannot be asked for, in a sentence that says what can."""
    for what, value, known in [
            ("dataset", name, tuple(SIDES)), ("split", split, SPLITS.get(name, ())),
            ("source", source, SOURCES), ("side", side, SIDES.get(name, ()))]:
        if value not in known:
            raise DataError(f"{what} is {value!r}: take one of {', '.join(map(repr, known))}")
    for what, value in [("limit", limit), ("seed", seed)]:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DataError(f"{what} is {value!r}: give a whole number, 0 or more")


def _silent(done: int, total: int, what: str) -> None:
    """Progress for nobody."""
