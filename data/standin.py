"""Drawn pictures in the place of a dataset that is not there: no files, and their truth is known.

Picture i of a split depends on the seed, the split and i alone, so that a smaller set is the
beginning of a larger one.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from data import faces, scenes
from data.imageset import ImageSet, image_set

ARTISTS = {"cifar10": scenes, "celeba": faces}
MOST = {"cifar10": {"train": 50_000, "test": 10_000},
        "celeba": {"train": 20_000, "valid": 2_000, "test": 2_000}}
USUAL = {"train": 4_000, "valid": 800, "test": 800}    # drawn within seconds; a quarter at side 128
STREAMS = ("train", "valid", "test")
CHUNK = 1_000           # pictures whose factors are drawn from one generator


def draw(name: str, split: str, side: int, limit: int, seed: int, progress, because: str = ""
         ) -> ImageSet:
    """Pictures for one split, `limit` of them or the usual number, and the factors behind them."""
    artist, n = ARTISTS[name], _number(name, split, side, limit)
    factors = _factors(name, split, n, seed)
    images = render(name, factors, side, progress)
    about = f"a drawn stand-in for {name} from seed {seed} ({n:,} pictures, split {split})"
    return image_set(
        name=name, split=split, images=torch.from_numpy(images),
        labels=torch.from_numpy(artist.labels(factors)), label_names=artist.LABELS, real=False,
        factors={key: torch.from_numpy(value) for key, value in factors.items()},
        source=f"{about}, because {because}" if because else about)


def _number(name: str, split: str, side: int, limit: int) -> int:
    """How many pictures are drawn: as many as were asked for, or the usual few."""
    if limit:
        return min(limit, MOST[name][split])
    return USUAL[split] // (4 if side == 128 else 1)


def render(name: str, factors: dict[str, np.ndarray], side: int, progress=None) -> np.ndarray:
    """The pictures (N, 3, side, side) uint8 with these factors, each (N,): the truth, redrawn."""
    artist, n = ARTISTS[name], len(next(iter(factors.values())))
    batch = artist.BATCH
    images = np.empty((n, 3, side, side), np.uint8)

    def draw_batch(start: int) -> int:
        rows = slice(start, start + batch)
        columns = {key: np.asarray(value[rows]) for key, value in factors.items()}
        pixels = np.clip(artist.paint(columns, side), 0, 1)
        images[rows] = pixels * np.float32(255) + np.float32(0.5)   # to the nearest level
        return start

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in pool.map(draw_batch, range(0, n, batch)):
            if progress and start % CHUNK < batch:
                progress(start, n, "drawing the stand-in")
    if progress:
        progress(n, n, "drawing the stand-in")
    return images


def _factors(name: str, split: str, n: int, seed: int) -> dict[str, np.ndarray]:
    """Independent factors for the first pictures of a split, each (n,)."""
    key = [seed, list(ARTISTS).index(name), STREAMS.index(split)]
    uniform = np.concatenate([
        np.random.default_rng([*key, chunk]).random((CHUNK, len(ARTISTS[name].FACTORS)))
        for chunk in range((n - 1) // CHUNK + 1)])
    return ARTISTS[name].factors(uniform[:n])
