"""How seconds and memory grow with images, sides and latent dimensions, and with all of CelebA.

    python tests/benchmarks/growth.py [--images 12500 25000 50000] [--celeba]

Each row is a process of its own, so that its peak memory is its own: one epoch of a small network
on noise, after a few steps to warm up. `--celeba` maps a file of the size of all 162,770 training
faces at 128x128 (8 GB, sparse), and takes a few hundred steps of `celeba128` on it: only what
batches touch is read.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from lab import training  # noqa: E402
from lab.recipes import RECIPES  # noqa: E402
from lab.show import Table  # noqa: E402
from vae_helpers import Recipe, build, count_parameters, training_step  # noqa: E402

ALL_FACES = 162_770
WIDTHS = {32: (32, 64, 128), 64: (32, 64, 128, 256), 128: (32, 64, 128, 256, 512)}     # to 4x4


def recipe_of(side: int, latent: int) -> Recipe:
    return RECIPES["p2-conv"].but(name="growth", side=side, widths=WIDTHS[side], latent=latent,
                                  batch=64)


def peak_bytes() -> int:
    """The most memory that this process has had at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def steps(recipe: Recipe, images: torch.Tensor, n: int, seed: int) -> float:
    """Seconds for so many steps on random batches."""
    device = training.choose_device()
    model = training.fresh(recipe, device)
    optimizer, precision = training.make_optimizer(model), training.measured_precision(device)
    draw = torch.Generator().manual_seed(seed)
    for step in range(n + 3):
        if step == 3:
            start = time.perf_counter()
        index = torch.randint(len(images), (recipe.batch,), generator=draw)
        x = training.batch_of(recipe, images, index, device)
        eps = torch.randn(len(x), recipe.latent, generator=draw).to(device)
        terms = training_step(model, optimizer, x, eps, bf16=precision == "bf16")
    terms.reconstruction.sum().item()                           # waits for the device
    return time.perf_counter() - start


def epoch(n: int, side: int, latent: int) -> dict:
    """One epoch on noise: seconds, and the peak of memory above that before the images."""
    recipe, before = recipe_of(side, latent), peak_bytes()
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    seconds = steps(recipe, images, n // recipe.batch, 0)
    return {"images": n, "side": side, "latent": latent,
            "parameters": count_parameters(build(recipe)), "seconds": seconds,
            "images/s": n / seconds, "set, MB": images.nbytes / 1e6,
            "peak above start, MB": (peak_bytes() - before) / 1e6}


def all_faces(n: int) -> dict:
    """Steps of `celeba128` on a mapped file as large as all of CelebA."""
    recipe, before = RECIPES["celeba128"], peak_bytes()
    shape = (ALL_FACES, 3, recipe.side, recipe.side)
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(int(np.prod(shape)))
        images = torch.from_numpy(np.memmap(file.name, np.uint8, "c", shape=shape))
        seconds = steps(recipe, images, n, 0)
        touched = (n + 3) * recipe.batch * recipe.pixels
        return {"images": ALL_FACES, "side": recipe.side, "latent": recipe.latent,
                "parameters": count_parameters(build(recipe)), "seconds": seconds,
                "images/s": n * recipe.batch / seconds, "set, MB": images.nbytes / 1e6,
                "peak above start, MB": (peak_bytes() - before) / 1e6, "touched, MB": touched / 1e6}


def measured(*arguments) -> dict:
    """A row, measured in a process of its own."""
    command = [sys.executable, __file__, "--row", json.dumps(arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    print(run.stdout.strip(), file=sys.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[12_500, 25_000, 50_000])
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128], choices=WIDTHS)
    parser.add_argument("--latents", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--celeba", action="store_true", help="also a set as large as all faces")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        what, *sizes = json.loads(args.row)
        return print(json.dumps({"epoch": epoch, "all_faces": all_faces}[what](*sizes)))
    rows = [measured("epoch", n, 32, 128) for n in args.images]
    rows += [measured("epoch", 2_500, side, 128) for side in args.sides]
    rows += [measured("epoch", 12_500, 32, latent) for latent in args.latents]
    rows += [measured("all_faces", 200)] if args.celeba else []
    rows = [row | {"touched, MB": row.get("touched, MB")} for row in rows]
    here = training.device_name(training.choose_device())
    print(f"\n{here}, torch {torch.__version__}\n")
    print(Table(rows, dict.fromkeys(("seconds", "images/s", "set, MB", "peak above start, MB",
                                     "touched, MB"), ",.0f") | {"seconds": ",.1f"}))


if __name__ == "__main__":
    main()
