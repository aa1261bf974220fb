"""How seconds and memory grow with images, sides and latent dimensions, and with all of CelebA.

    python tests/benchmarks/growth.py [--images 12500 25000 50000] [--celeba]

Each row is a process of its own, so that its peak memory is its own: one epoch of a small network
on noise, after a few steps to warm up. `--celeba` alone maps a cache of the size of all 162,770
training faces at 128x128 (8 GB, a sparse file that holds nothing) and takes some steps of
`celeba128` on it as the project trains: only what batches touch is read. A hole is read without the
disk, so its seconds leave the disk out; what is touched stays in memory until that is needed for
something else. The temporary folder must not lie in memory itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from counting import activation_bytes  # noqa: E402

from data.imagecache import ROW_BYTES, _Cache  # noqa: E402
from lab import training  # noqa: E402
from lab.recipes import RECIPES  # noqa: E402
from lab.show import Table  # noqa: E402
from vae_helpers import Recipe, build, count_parameters, training_step  # noqa: E402

ALL_FACES, ATTRIBUTES = 162_770, 40
WIDTHS = {32: (32, 64, 128), 64: (32, 64, 128, 256), 128: (32, 64, 128, 256, 512)}     # to 4x4


def recipe_of(side: int, latent: int) -> Recipe:
    return RECIPES["p2-conv"].but(name="growth", side=side, widths=WIDTHS[side], latent=latent,
                                  batch=64)


# ---- memory


def status_bytes(name: str) -> int | None:
    """A line of what Linux says of this process's memory; None elsewhere."""
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def peak_bytes() -> int:
    """The most memory that this process has had at once.

    Linux hands on the peak that `getrusage` gives from the process that started this one.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def mapped_bytes(path: Path) -> int | None:
    """How much of a mapped file is in this process's memory, as Linux counts; None elsewhere."""
    maps = Path("/proc/self/smaps")
    text = maps.read_text() if maps.exists() else ""
    found = re.search(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss:\s+(\d+) kB", text)
    return 1024 * int(found[1]) if found else None


def needed_bytes(recipe: Recipe, n: int) -> int:
    """What training on n mapped images must hold by calculation, the pixels of a batch included.

    Weights, gradients and Adam's two moments; a batch's pixels and activations in fp32; of each
    image its place in the order, its cache's digests and its attributes.
    """
    batch = recipe.batch * recipe.pixels * (1 + 4)
    return (16 * count_parameters(build(recipe)) + batch + activation_bytes(recipe)
            + n * (8 + ROW_BYTES + ATTRIBUTES))


# ---- rows


def epoch(n: int, side: int, latent: int) -> dict:
    """One epoch on noise: seconds, and the peak of memory above that before the images."""
    recipe, before = recipe_of(side, latent), peak_bytes()
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    seconds = steps(recipe, images, n // recipe.batch, 0)
    return {"images": n, "side": side, "latent": latent,
            "parameters": count_parameters(build(recipe)), "seconds": seconds,
            "images/s": n // recipe.batch * recipe.batch / seconds, "set, MB": images.nbytes / 1e6,
            "peak above start, MB": (peak_bytes() - before) / 1e6, "peak, MB": peak_bytes() / 1e6}


def steps(recipe: Recipe, images: torch.Tensor, n: int, seed: int) -> float:
    """Seconds for so many steps on random batches."""
    device = training.choose_device()
    model = training.fresh(recipe, device)
    optimizer, precision = training.make_optimizer(model), training.choose_precision("auto", device)
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


class Enough(Exception):
    """So many steps are taken."""


def begin_epoch(recipe: Recipe, images: torch.Tensor, n: int) -> float:
    """Seconds for the first n steps of an epoch of the project's own training."""
    device, taken = training.choose_device(), 0
    model = training.fresh(recipe, device)
    optimizer = training.make_optimizer(model)

    def count(*_) -> None:
        nonlocal taken
        taken += 1
        if taken == n:
            raise Enough

    optimizer.register_step_post_hook(count)
    start = time.perf_counter()
    try:
        training.train_epoch(model, optimizer, images, seed=0, epoch=1, epochs=recipe.epochs,
                             precision=training.choose_precision("auto", device),
                             tick=lambda text: None, folder=Path("."))
    except Enough:
        pass
    return time.perf_counter() - start


def all_faces(n: int) -> dict:
    """Steps of `celeba128` on a mapped cache as large as all of CelebA."""
    recipe, before = RECIPES["celeba128"], peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        cache = _Cache(Path(folder) / "faces", recipe.side)
        cache.images_path.touch()
        os.truncate(cache.images_path, ALL_FACES * cache.image_bytes)
        images = torch.from_numpy(cache.images(ALL_FACES))
        seconds = begin_epoch(recipe, images, n)
        mapped, disk = mapped_bytes(cache.images_path), cache.images_path.stat().st_blocks * 512
    return {"faces": ALL_FACES, "steps": n, "seconds": seconds,
            "images/s": n * recipe.batch / seconds, "set, MB": images.nbytes / 1e6,
            "needed by calculation, MB": needed_bytes(recipe, ALL_FACES) / 1e6,
            "pixels touched, MB": n * recipe.batch * recipe.pixels / 1e6,
            "peak above start, MB": (peak_bytes() - before) / 1e6,
            "peak, MB": peak_bytes() / 1e6,
            "of it the cache's, MB": None if mapped is None else mapped / 1e6,
            "disk used, MB": disk / 1e6}


# ---- the table


def measured(*arguments) -> dict:
    """A row, measured in a process of its own."""
    command = [sys.executable, __file__, "--row", json.dumps(arguments)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(run.stdout.strip(), file=sys.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def show(rows: list[dict]) -> None:
    """The rows as Markdown, whole numbers but for short times."""
    formats = dict.fromkeys(rows[0], ",.0f") | {"seconds": ",.1f", "disk used, MB": ",.1f"}
    print(f"\n{Table(rows, formats)._repr_markdown_()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[12_500, 25_000, 50_000])
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128], choices=WIDTHS)
    parser.add_argument("--latents", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--celeba", action="store_true", help="only a set as large as all faces")
    parser.add_argument("--steps", type=int, default=60, help="of --celeba")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        what, *sizes = json.loads(args.row)
        return print(json.dumps({"epoch": epoch, "all_faces": all_faces}[what](*sizes)))
    device = training.choose_device()
    print(f"{training.device_name(device)}, {training.choose_precision('auto', device)}, "
          f"torch {torch.__version__}")
    if args.celeba:
        return show([measured("all_faces", args.steps)])
    cases = dict.fromkeys([(n, 32, 128) for n in args.images]
                          + [(2_500, side, 128) for side in args.sides]
                          + [(12_500, 32, latent) for latent in args.latents])
    show([measured("epoch", *case) for case in cases])


if __name__ == "__main__":
    main()
