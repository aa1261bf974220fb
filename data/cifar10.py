"""CIFAR-10 from the published batches, from an npz file, or from torchvision's download."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import socket
import tempfile
from pathlib import Path

import numpy as np
import torch

from data.imageset import AbsentError, DataError, ImageSet, digest_images, image_set, is_there

CLASSES = ("airplane", "automobile", "bird", "cat", "deer",
           "dog", "frog", "horse", "ship", "truck")
SIDE = 32
PATIENCE = 10           # seconds without an answer after which a download is given up

# The published MD5 of every file, by split.
BATCHES = {
    "train": {"data_batch_1": "c99cafc152244af753f735de768cd75f",
              "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
              "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
              "data_batch_4": "634d18415352ddfa80567beed471001a",
              "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb"},
    "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
}
HOW = ("put the folder cifar-10-batches-py of cifar-10-python.tar.gz "
       "(https://www.cs.toronto.edu/~kriz/cifar.html) or a cifar10.npz with x_train, y_train, "
       "x_test, y_test there")


def load(split: str, limit: int, root: Path, download: bool, progress) -> ImageSet:
    """The images of one split in canonical order."""
    folder, npz = root / "cifar-10-batches-py", root / "cifar10.npz"
    path = next((path for path in (folder, npz) if is_there(path)), None)
    if path is None and download:
        _download(folder, progress)
        path = folder
    if path is None:
        raise AbsentError(f"CIFAR-10 is not in {root}: {HOW}")
    images, labels = (_read_batches if path == folder else _read_npz)(path, split)
    return _canonical(images, labels, split, path).take(limit)


def _canonical(images: np.ndarray, labels: np.ndarray, split: str, path: Path) -> ImageSet:
    """The set sorted by the digest of the pixels, then by label, whatever the file's order was."""
    digests = digest_images(images)
    high, low = digests.view(">u8").T
    order = np.lexsort((labels, low, high))
    source = f"CIFAR-10 from {path} ({len(images):,} images, split {split})"
    return image_set(name="cifar10", split=split, images=torch.from_numpy(images[order]),
                     labels=torch.from_numpy(labels[order]), label_names=CLASSES,
                     digests=digests[order], source=source, real=True)


# ---- the published batches: pickles that Python 2 wrote

def _read_batches(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64, once all files are checked."""
    contents = {folder / name: _verified(folder / name, md5)
                for name, md5 in BATCHES[split].items()}
    parts = [_unpickled(path, content) for path, content in contents.items()]
    return (np.concatenate([images for images, _ in parts]),
            np.concatenate([labels for _, labels in parts]))


def _verified(path: Path, md5: str) -> bytes:
    """The file's bytes, once their MD5 is the published one."""
    if not path.exists():
        raise DataError(f"{path} is missing: unpack cifar-10-python.tar.gz again")
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{path} is damaged or not the published file (MD5 {found}, not {md5}): "
                        "unpack cifar-10-python.tar.gz again")
    return content


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers, and refuses every other global."""

    ALLOWED = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
               "numpy.ndarray", "numpy.dtype")

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return super().find_class(module, name)


def _unpickled(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N,) of one batch."""
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        images, labels = batch["data"], np.asarray(batch["labels"])
    except Exception as error:  # a broken pickle may raise nearly anything
        raise DataError(f"{path} is no CIFAR-10 batch ({error!r}): "
                        "unpack cifar-10-python.tar.gz again") from error
    if getattr(images, "ndim", 0) != 2 or images.shape[1] != 3 * SIDE * SIDE:
        raise DataError(f"{path} does not hold rows of 3,072 bytes: "
                        "unpack cifar-10-python.tar.gz again")
    images = images.reshape(-1, 3, SIDE, SIDE)      # a row is red, green, blue, each 32×32
    return _checked(path, images, labels, "data", "labels")


# ---- cifar10.npz, with the names and shapes that Keras uses

def _read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 from arrays (N, 32, 32, 3) and (N,)."""
    x, y = f"x_{split}", f"y_{split}"
    images, labels = _npz_arrays(path, x, y)
    if images.shape[1:] != (SIDE, SIDE, 3):
        raise DataError(f"{path}: {x} has the shape {images.shape}, not (N, 32, 32, 3): "
                        "save the images height × width × colour")
    return _checked(path, np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels, x, y)


def _npz_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """The named arrays of an npz file, none of them unpickled."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in names if name not in arrays.files]
            if not missing:
                return [arrays[name] for name in names]
    except OSError:
        raise
    except Exception as error:  # a broken archive may raise nearly anything
        raise DataError(f"{path} is no whole npz file of plain arrays ({error}): "
                        "copy or save it again") from error
    raise DataError(f"{path} has no array {' and no array '.join(missing)}: "
                    "it needs x_train, y_train, x_test, y_test")


def _checked(path: Path, images: np.ndarray, labels: np.ndarray, x: str, y: str):
    """The images and the labels as (N,) int64, when they can be CIFAR-10's."""
    if images.dtype != np.uint8:
        raise DataError(f"{path}: {x} is {images.dtype}, not uint8: save the pixels as 0 to 255")
    if not len(images) or labels.shape not in [(len(images),), (len(images), 1)]:
        raise DataError(f"{path}: {y} has the shape {labels.shape} beside {len(images)} images: "
                        "save one label an image")
    if images.max() <= 1:
        raise DataError(f"{path}: {x} holds no pixel above 1: save the pixels as 0 to 255")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise DataError(f"{path}: {y} holds something other than the classes 0 to 9: "
                        "save the labels as whole numbers")
    return images, labels.reshape(-1).astype(np.int64)


# ---- torchvision's download

def _download(folder: Path, progress) -> None:
    """Leaves the published batches in `folder`, or nothing and an AbsentError."""
    from torchvision.datasets import CIFAR10

    progress(0, 1, "downloading CIFAR-10 (170 MB)")
    cache = folder.parent / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as beside:
        try:
            with _impatient(), contextlib.redirect_stderr(io.StringIO()):  # its bar is not ours
                CIFAR10(beside, download=True)
            os.replace(Path(beside) / folder.name, folder)
        except (OSError, RuntimeError) as error:
            raise AbsentError(f"CIFAR-10 is not in {folder.parent} and its download failed "
                              f"({error}): {HOW}") from error
    progress(1, 1, "downloading CIFAR-10 (170 MB)")


@contextlib.contextmanager
def _impatient():
    """Network calls inside give up after PATIENCE seconds without an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
