"""One's own folder of pictures as a dataset.

A file's digest says whether it is a test image, so that neither its name nor what else lies there
decides it, and the same file twice counts once.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data.imageset import DataError, ImageSet
from data.picture import read_picture

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
FEWEST = 200        # different pictures: from fewer than 128 no 128 directions can be taken
SIXTH = 6           # one picture in six is a test image
RULE = f"a picture whose file's SHA-256, as a number, divides by {SIXTH} is a test image"


def load(split: str, side: int, limit: int, root: Path, progress) -> ImageSet:
    """The pictures of one split, those in its folders included, in the order of their digests."""
    files = pictures_in(root)
    if len(files) < FEWEST:
        raise DataError(f"{root} has {len(files)} different pictures where {FEWEST} are needed: "
                        f"put more there, with names that end in {', '.join(sorted(ENDINGS))}")
    chosen = [path for digest, path in sorted(files.items())
              if (int(digest, 16) % SIXTH == 0) == (split == "test")]
    used = chosen[:limit or None]
    images = np.empty((len(used), 3, side, side), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, picture in enumerate(pool.map(partial(read_picture, side=side), used)):
            images[i] = picture.pixels
            progress(i + 1, len(used), "reading pictures")
    return ImageSet(name="folder", split=split, images=torch.from_numpy(images),
                    labels=torch.zeros(len(used), dtype=torch.int64), label_names=("picture",),
                    source=f"{len(used):,} of the {len(files):,} pictures in {root} (split {split}:"
                           f" {RULE}), their middle squares resized to {side}×{side}", real=True)


def pictures_in(root: Path) -> dict[str, Path]:
    """The different pictures in a folder and in its folders, by the SHA-256 of their files."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder: give the one of your pictures as --data-root")
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS
                   and not path.name.startswith(".") and path.is_file())
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in reversed(found)}
