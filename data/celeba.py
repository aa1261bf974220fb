"""CelebA from its official folder: the aligned JPEGs, the attribute list and the partition list."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.imagecache import cached_images
from data.imageset import AbsentError, DataError, ImageSet

ALIGNED = (178, 218)                # width and height of every aligned image
CROP = (0, 20, 178, 198)            # left, top, right, bottom of the 178×178 in the middle
PARTS = {"train": "0", "valid": "1", "test": "2"}
IMAGES, ATTRIBUTES, PARTITION = (
    "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt")
HOW = (f"put {IMAGES}/ (unpacked from img_align_celeba.zip), {ATTRIBUTES} and {PARTITION} there "
       "by hand from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, as torchvision's own "
       "download mostly ends at the drive's quota")


def load(split: str, side: int, limit: int, root: Path, crop: bool, progress) -> ImageSet:
    """The faces of one official split in the order of their file names."""
    folder = root / "celeba"
    if not any((folder / name).exists() for name in (IMAGES, ATTRIBUTES, PARTITION)):
        raise AbsentError(f"CelebA is not in {folder}: {HOW}")
    present = {name for name in os.listdir(folder / IMAGES) if name.endswith(".jpg")}
    part_of = _read_partition(folder / PARTITION, present)
    names, flags_of = _read_attributes(folder / ATTRIBUTES, present)
    listed = sorted(name for name, part in part_of.items() if part == PARTS[split])
    faces = [name for name in listed if name in present]
    if not faces:
        raise DataError(f"{folder / IMAGES} has none of the {len(listed):,} images that "
                        f"{PARTITION} lists for the split {split!r}: {HOW}")
    used = faces[:limit or None]
    labels = _flags(folder / ATTRIBUTES, names, flags_of, used)
    fewer = len(used) < len(faces)
    stem = f"celeba-{split}-{side}{'' if crop else '-whole'}{f'-first-{limit}' if fewer else ''}"
    images = cached_images(root / "cache" / stem, [folder / IMAGES / name for name in used], side,
                           partial(_decode, side=side, crop=crop), progress)
    absent = f", {len(listed) - len(faces):,} more are listed but absent"
    source = (f"CelebA from {folder} ({len(faces):,} images, split {split}"
              f"{absent if len(faces) < len(listed) else ''}), "
              f"{'cropped to 178×178' if crop else 'not cropped'} and resized to {side}×{side}")
    return ImageSet(name="celeba", split=split, images=torch.from_numpy(images), labels=labels,
                    label_names=names, real=True,
                    source=f"the first {limit:,} of: {source}" if fewer else source)


# ---- pictures

def _decode(path: Path, side: int, crop: bool) -> np.ndarray:
    """The middle 178×178 of a face, or all of it, antialiased, as (3, side, side) uint8."""
    try:
        with Image.open(path) as image:
            size = image.size
            # Only then is it decoded: another size may not fit the memory.
            face = image.convert("RGB") if size == ALIGNED else None
    except Exception as error:  # a broken image may raise nearly anything
        raise DataError(f"{path} does not decode ({error}): unpack this image again") from error
    if face is None:
        raise DataError(f"{path} is {size[0]}×{size[1]} pixels where aligned faces are 178×218: "
                        "take the images of img_align_celeba.zip")
    # Crop first: a resize of the whole with a box would look beyond the crop at its edges.
    small = (face.crop(CROP) if crop else face).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)


# ---- lists

def _read_partition(path: Path, present: set[str]) -> dict[str, str]:
    """"0", "1" or "2" for each image name."""
    part_of = _by_name(path, _lines(path), present)
    unknown = set(part_of.values()) - set(PARTS.values())
    if unknown:
        raise DataError(f"{path} has the part {min(unknown)!r}, which is none of 0, 1 and 2: "
                        "copy the list again")
    return part_of


def _read_attributes(path: Path, present: set[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of the attributes, and for each image name the rest of its row."""
    lines = _lines(path)
    if len(lines) < 3 or lines[0].strip() != str(len(lines) - 2):
        raise DataError(f"{path} is cut or no list of attributes, as it does not begin with the "
                        f"number of its {max(len(lines) - 2, 0):,} images: copy the list again")
    return tuple(lines[1].split()), _by_name(path, lines[2:], present)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="ascii", errors="replace").rstrip().splitlines()


def _by_name(path: Path, rows: list[str], present: set[str]) -> dict[str, str]:
    """What follows the name in each row, once every image that is there has a row."""
    rest_of = {name: rest.strip() for name, _, rest in (row.partition(" ") for row in rows)}
    lost = present - rest_of.keys()
    if lost:
        raise DataError(f"{path} has no row for {min(lost)} ({len(lost):,} of the images in "
                        f"{IMAGES} are not in it): copy the list again")
    return rest_of


def _flags(path: Path, names: tuple, flags_of: dict, used: list[str]) -> torch.Tensor:
    """The attributes of the images in use, (N, 40) bool, from what follows their names."""
    rows = [flags_of[name].split() for name in used]
    for name, row in zip(used, rows, strict=True):
        if len(row) != len(names) or not set(row) <= {"1", "-1"}:
            raise DataError(f"{path} has a row for {name} that is not {len(names)} times 1 or -1: "
                            "copy the list again")
    return torch.from_numpy(np.array(rows) == "1")
