"""How seconds and memory grow with the number of images, their side and the latent dimensions.

    python tests/benchmarks/growth.py [--images 12500 25000 50000] [--sides 32 64] [--latents 64]

Each row is a process of its own, so that its peak memory is its own: one epoch of a small network
on noise, after one of a few steps to warm up. What does not vary is 2,500 images, side 32 and 128
latent dimensions. On a GPU memory is the GPU's.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from lab import training  # noqa: E402
from vae_helpers import Recipe, count_parameters  # noqa: E402

WIDTHS = {32: (32, 64, 128), 64: (32, 64, 128, 256), 128: (32, 64, 128, 256, 512)}     # to 4x4


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has had at once, on its device.

    `getrusage` would do, but Linux has it begin with the peak of the process that started this one.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def row(n: int, side: int, latent: int) -> dict:
    """One epoch on n images of noise: seconds, and the peak of memory above that before them."""
    recipe = Recipe("growth", side=side, widths=WIDTHS[side], norm=False, latent=latent, batch=64)
    device = training.choose_device()
    before = peak_bytes(device)
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    model = training.fresh(recipe, device)
    optimizer = training.make_optimizer(model)
    for part in (images[:3 * recipe.batch], images):
        record = training.train_epoch(
            model, optimizer, part, seed=0, epoch=1, epochs=1, tick=lambda text: None,
            precision=training.choose_precision("auto", device), folder=Path("."))
    return {"images": n, "side": side, "latent": latent, "parameters": count_parameters(model),
            "seconds": record["seconds"], "images/s": n / record["seconds"],
            "set, MB": images.nbytes / 1e6,
            "peak above start, MB": (peak_bytes(device) - before) / 1e6}


def alone(*case: int) -> dict:
    """The row, measured in a process of its own."""
    command = [sys.executable, __file__, "--row", *map(str, case)]
    run = subprocess.run(command, text=True, check=True, stdout=subprocess.PIPE)
    return json.loads(run.stdout)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, usage="growth.py [options]",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[12_500, 25_000, 50_000])
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128], choices=WIDTHS)
    parser.add_argument("--latents", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--row", type=int, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.row:
        return print(json.dumps(row(*args.row)))
    cases = dict.fromkeys([(n, 32, 128) for n in args.images]
                          + [(2_500, side, 128) for side in args.sides]
                          + [(2_500, 32, latent) for latent in args.latents])
    print(f"{training.device_name(training.choose_device())}, torch {torch.__version__}")
    for case in cases:
        print(", ".join(f"{name} {value:,.0f}" for name, value in alone(*case).items()))


if __name__ == "__main__":
    main()
