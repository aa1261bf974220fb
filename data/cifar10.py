"""CIFAR-10 from the published batches, from an npz file, or from torchvision's download."""

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

from data.imageset import AbsentError, DataError, ImageSet, digest_images

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
PATIENCE = 10           # seconds without an answer after which a download is given up

# The published MD5 of every file, by split.
BATCHES = {
    "train": {"data_batch_1": "c99cafc152244af753f735de768cd75f",
              "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
              "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
              "data_batch_4": "634d18415352ddfa80567beed471001a",
              "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb"},
    "test": {"test_batch": "40351d587109b95175f43aff81a1287e"}}
HOW = ("put the folder cifar-10-batches-py of cifar-10-python.tar.gz "
       "(https://www.cs.toronto.edu/~kriz/cifar.html) or a cifar10.npz with x_train, y_train, "
       "x_test, y_test there")


def load(split: str, limit: int, root: Path, download: bool, progress) -> ImageSet:
    """The images of one split in canonical order."""
    folder, npz = root / "cifar-10-batches-py", root / "cifar10.npz"
    if download and not folder.exists() and not npz.exists():
        _download(folder, progress)
    if folder.exists():
        return _canonical(*_read_batches(folder, split), split, folder).take(limit)
    if npz.exists():
        return _canonical(*_read_npz(npz, split), split, npz).take(limit)
    raise AbsentError(f"CIFAR-10 is not in {root}: {HOW}")


def _canonical(images: np.ndarray, labels: np.ndarray, split: str, path: Path) -> ImageSet:
    """The set sorted by the digest of the pixels, then by label, whatever the file's order was."""
    high, low = digest_images(images).view(">u8").T
    order = np.lexsort((labels, low, high))
    source = f"CIFAR-10 from {path} ({len(images):,} images, split {split})"
    return ImageSet(name="cifar10", split=split, images=torch.from_numpy(images[order]),
                    labels=torch.from_numpy(labels[order].astype(np.int64)), label_names=CLASSES,
                    source=source, real=True)


# ---- the published batches: pickles that Python 2 wrote

def _read_batches(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N,), once all files are checked."""
    contents = [(folder / name).read_bytes() for name in BATCHES[split]]
    for (name, md5), content in zip(BATCHES[split].items(), contents, strict=True):
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise DataError(f"{folder / name} is damaged or not the published file, whose MD5 is "
                            f"{md5}: unpack cifar-10-python.tar.gz again")
    batches = [_ArraysOnly(io.BytesIO(content), encoding="latin1").load() for content in contents]
    images = np.concatenate([batch["data"] for batch in batches])       # red, green, blue
    return images.reshape(-1, 3, 32, 32), np.concatenate([batch["labels"] for batch in batches])


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers, and refuses every other global."""

    ALLOWED = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
               "numpy.ndarray", "numpy.dtype")

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.ALLOWED:
            raise DataError(f"a batch of CIFAR-10 names {module}.{name}, which has no place in it: "
                            "unpack cifar-10-python.tar.gz again")
        return super().find_class(module, name)


# ---- cifar10.npz, with the names and shapes that Keras uses

def _read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N,) from arrays (N, 32, 32, 3) and (N,) or (N, 1)."""
    x, y = f"x_{split}", f"y_{split}"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays[x], arrays[y]
    except OSError:
        raise
    except Exception as error:  # a broken archive may raise nearly anything
        raise DataError(f"{path} is no whole npz file of plain arrays x_train, y_train, x_test, "
                        f"y_test ({error}): copy or save it again") from error
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or not images.size:
        raise DataError(f"{path}: {x} is {images.dtype} of the shape {images.shape}, not uint8 of "
                        "(N, 32, 32, 3): save the pixels as 0 to 255, height × width × colour")
    if (labels.shape not in [(len(images),), (len(images), 1)] or labels.dtype.kind not in "iu"
            or labels.min() < 0 or labels.max() >= len(CLASSES)):
        raise DataError(f"{path}: {y} is {labels.dtype} of the shape {labels.shape} beside "
                        f"{len(images)} images: save one class an image, as 0 to 9")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.reshape(-1)


# ---- torchvision's download

def _download(folder: Path, progress) -> None:
    """Leaves the published batches in `folder`, or nothing and an AbsentError."""
    from torchvision.datasets import CIFAR10

    what, before = "downloading CIFAR-10 (170 MB)", socket.getdefaulttimeout()
    progress(0, 1, what)
    folder.parent.mkdir(parents=True, exist_ok=True)
    socket.setdefaulttimeout(PATIENCE)
    try:
        with (tempfile.TemporaryDirectory(dir=folder.parent, prefix="download-") as beside,
              contextlib.redirect_stderr(io.StringIO())):       # its bar is not ours
            CIFAR10(beside, download=True)
            os.replace(Path(beside) / folder.name, folder)
    except (OSError, RuntimeError) as error:
        if not folder.exists():             # which another process may have brought meanwhile
            raise AbsentError(f"CIFAR-10 is not in {folder.parent} and its download failed "
                              f"({error}): {HOW}") from error
    finally:
        socket.setdefaulttimeout(before)
    progress(1, 1, what)
