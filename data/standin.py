"""Drawn pictures whose truth is known: a dataset of their own, or in the place of absent files.

Picture i of a split depends on nothing else, so that a smaller set begins a larger one.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from data import faces, scenes
from data.drawing import Canvas
from data.imageset import ImageSet

ARTISTS = {"cifar10": scenes, "celeba": faces, "drawn": faces}
MOST = {"cifar10": {"train": 50_000, "test": 10_000},
        "celeba": {"train": 20_000, "valid": 2_000, "test": 2_000},
        "drawn": {"train": 20_000, "valid": 2_000, "test": 2_000}}
FEW = {"train": 4_000, "valid": 800, "test": 800}   # of a stand-in, drawn within seconds
CHUNK = 1_000           # pictures whose factors are drawn from one generator
BATCH = 100             # pictures drawn at once by a thread: their layers fit its cache


def draw(name: str, split: str, side: int, limit: int, progress, because: str = "") -> ImageSet:
    """Pictures for one split, `limit` of them or the usual number, and the factors behind them."""
    artist, most = ARTISTS[name], MOST[name][split]
    n = min(limit, most) or (most if name == "drawn" else FEW[split])
    factors = _factors(name, split, n)
    source = "drawn faces" if name == "drawn" else f"a drawn stand-in for {name}"
    source += f" ({n:,} pictures, split {split})"
    return ImageSet(
        name=name, split=split, images=torch.from_numpy(render(name, factors, side, progress)),
        labels=torch.from_numpy(artist.labels(factors)), label_names=artist.LABELS, real=False,
        factors={key: torch.from_numpy(value) for key, value in factors.items()},
        source=f"{source}, because {because}" if because else source)


def render(name: str, factors: dict[str, np.ndarray], side: int, progress=None) -> np.ndarray:
    """The pictures (N, 3, side, side) uint8 with these factors, each (N,): the truth, redrawn."""
    n = len(next(iter(factors.values())))
    images = np.empty((n, 3, side, side), np.uint8)

    def draw_batch(start: int) -> int:
        rows = slice(start, start + BATCH)
        page = Canvas.blank(len(images[rows]), side)
        ARTISTS[name].paint({key: np.asarray(value)[rows, None, None]
                             for key, value in factors.items()}, page)
        images[rows] = np.clip(page.pixels, 0, 1) * 255 + 0.5       # to the nearest level
        return min(start + BATCH, n)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(draw_batch, range(0, n, BATCH)):
            if progress:
                progress(done, n, "drawing pictures")
    return images


def _factors(name: str, split: str, n: int) -> dict[str, np.ndarray]:
    """Independent factors for the first pictures of a split, each (n,) float32."""
    values = ARTISTS[name].FACTORS
    key = [0, list(ARTISTS).index(name), list(FEW).index(split)]    # of a random stream
    uniform = np.concatenate([np.random.default_rng([*key, chunk]).random((CHUNK, len(values)))
                              for chunk in range((n - 1) // CHUNK + 1)])[:n]
    return {factor: (np.floor(column * k) if k else column).astype(np.float32)
            for (factor, k), column in zip(values.items(), uniform.T, strict=True)}
