"""CelebA from its official folder: the aligned JPEGs, the attribute list and the partition list."""

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.imagecache import cached_images
from data.imageset import AbsentError, DataError, ImageSet, image_set, is_there, with_limit

ALIGNED = (178, 218)                # width and height of every aligned image
CROP = (0, 20, 178, 198)            # left, top, right, bottom of the 178×178 in the middle
MODES = ("RGB", "L", "CMYK", "YCbCr")   # those that PIL makes RGB of as they look
PARTS = {"train": "0", "valid": "1", "test": "2"}
IMAGES, ATTRIBUTES, PARTITION = (
    "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt")
HOW = (f"put {IMAGES}/ (unpacked from img_align_celeba.zip), {ATTRIBUTES} and {PARTITION} there "
       "by hand from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, as torchvision's own "
       "download mostly ends at the drive's quota")


def load(split: str, side: int, limit: int, root: Path, crop: bool, progress) -> ImageSet:
    """The faces of one official split in the order of their file names."""
    folder = root / "celeba"
    present = _present(folder)
    part_of = _read_partition(folder / PARTITION)
    names, flags_of = _read_attributes(folder / ATTRIBUTES)
    _check_lists(folder, present, part_of, flags_of)
    listed = sorted(name for name, part in part_of.items() if part == PARTS[split])
    faces = [name for name in listed if name in present]
    if not faces:
        raise DataError(f"{folder / IMAGES} has none of the {len(listed):,} images that "
                        f"{PARTITION} lists for the split {split!r}: {HOW}")
    used = faces[:limit or None]
    labels = _flags(folder / ATTRIBUTES, names, flags_of, used)
    images, digests, why = cached_images(
        root / "cache" / f"celeba-{split}-{side}{'' if crop else '-whole'}",
        [folder / IMAGES / name for name in used], side,
        partial(_decode, side=side, crop=crop), progress)
    source = _source(folder, split, side, crop, len(listed), len(faces), why)
    return image_set(
        name="celeba", split=split, images=torch.from_numpy(images), digests=digests,
        labels=labels, label_names=names, real=True,
        source=with_limit(source, limit) if len(used) < len(faces) else source)


def _source(folder: Path, split: str, side: int, crop: bool, listed: int, present: int, why: str
            ) -> str:
    """One sentence: which faces, how many are absent, and why the cache was made again."""
    absent = f", {listed - present:,} more are listed but absent" if present < listed else ""
    cut = "cropped to 178×178" if crop else "not cropped"
    return (f"CelebA from {folder} ({present:,} images, split {split}{absent}), {cut} "
            f"and resized to {side}×{side}{'; ' + why if why else ''}")


# ---- pictures

def _present(folder: Path) -> set[str]:
    """The names of all JPEGs that are there."""
    missing = [name for name in (IMAGES, ATTRIBUTES, PARTITION) if not is_there(folder / name)]
    if len(missing) == 3:
        raise AbsentError(f"CelebA is not in {folder}: {HOW}")
    if missing:
        raise DataError(f"{folder} has no {' and no '.join(missing)}: {HOW}")
    with os.scandir(folder / IMAGES) as entries:
        present = {entry.name for entry in entries if entry.name.endswith(".jpg")}
    if not present:
        raise DataError(f"{folder / IMAGES} holds no .jpg file: {HOW}")
    return present


def _decode(path: Path, content: bytes, side: int, crop: bool) -> np.ndarray:
    """The middle 178×178 of a face, or all of it, antialiased, as (3, side, side) uint8."""
    face = _face(path, content)
    # Crop first: a resize of the whole with a box would look beyond the crop at its edges.
    small = (face.crop(CROP) if crop else face).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)


def _face(path: Path, content: bytes) -> Image.Image:
    """The whole face in RGB, decoded only once its header is an aligned face's."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_header(path, image)
            return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # a broken image may raise nearly anything
        raise DataError(f"{path} does not decode ({error}): unpack this image again") from error


def _check_header(path: Path, image: Image.Image) -> None:
    """Refuses another size, which may not fit the memory, and pixels that RGB would falsify."""
    if image.size != ALIGNED:
        raise DataError(f"{path} is {image.width}×{image.height} pixels where aligned faces are "
                        "178×218: take the images of img_align_celeba.zip")
    if image.mode not in MODES:
        raise DataError(f"{path} has the mode {image.mode} where faces have one of "
                        f"{', '.join(MODES)}: take the images of img_align_celeba.zip")


# ---- lists

def _read_partition(path: Path) -> dict[str, str]:
    """"0", "1" or "2" for each image name."""
    part_of = _by_name(path, _lines(path), first=1)
    for name, part in part_of.items():
        if part not in PARTS.values():
            raise DataError(f"{path} gives {name} the part {part!r}, which is none of 0, 1 and 2: "
                            "copy the list again")
    return part_of


def _read_attributes(path: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of the attributes, and for each image name the rest of its row."""
    lines = _lines(path)
    if len(lines) < 3:
        raise DataError(f"{path} ends before its first row: copy the list again")
    count, header, *rows = lines
    names = tuple(header.split())
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"{path} line 2 names {min(twice)} twice: copy the list again")
    flags_of = _by_name(path, rows, first=3)
    if count.strip() != str(len(flags_of)):
        raise DataError(f"{path} announces {count.strip()!r} images in its first line and has "
                        f"{len(flags_of):,} rows: copy the list again")
    return names, flags_of


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not plain text ({error}): copy the list again") from error


def _by_name(path: Path, rows: list[str], first: int) -> dict[str, str]:
    """What follows the name in each row; `first` is the line that the rows begin at."""
    rest_of = {}
    for number, row in enumerate(rows, first):
        name, rest = (*row.split(None, 1), "", "")[:2]
        if name in rest_of:
            raise DataError(f"{path} line {number} lists {name} a second time: "
                            "copy the list again")
        if name:
            rest_of[name] = rest.strip()
    return rest_of


def _check_lists(folder: Path, present: set[str], part_of: dict, flags_of: dict) -> None:
    """Every image is in both lists, and one list at most has been cut to fewer images."""
    for file, rows in [(PARTITION, part_of), (ATTRIBUTES, flags_of)]:
        lost = sorted(present - rows.keys())
        if lost:
            raise DataError(f"{folder / file} has no row for {lost[0]} "
                            f"({len(lost):,} of the images in {IMAGES} are not in it): "
                            "copy the list again")
    only_here, only_there = part_of.keys() - flags_of.keys(), flags_of.keys() - part_of.keys()
    if only_here and only_there:
        raise DataError(f"{folder / PARTITION} alone lists {min(only_here)} and {ATTRIBUTES} alone "
                        f"lists {min(only_there)}: copy both lists from one place")


def _flags(path: Path, names: tuple[str, ...], flags_of: dict, used: list[str]) -> torch.Tensor:
    """The attributes of the images in use, (N, 40) bool."""
    flags = np.empty((len(used), len(names)), bool)
    for i, name in enumerate(used):
        values = flags_of[name].split()
        if len(values) != len(names) or not set(values) <= {"1", "-1"}:
            raise DataError(f"{path} has a row for {name} that is not {len(names)} times 1 or -1: "
                            "copy the list again")
        flags[i] = [value == "1" for value in values]
    return torch.from_numpy(flags)
