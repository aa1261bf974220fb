"""Images per second of the recipes as trained here, against the loop that a student would write.

    python tests/benchmarks/against_student.py [--only conv fc] [--switches] [--profile conv]

Whatever is compared runs in turns, a few seconds each for several rounds, so that a machine that is
busy with something else slows all alike: trust the ratios before the rates, and the best round
before the median. `--switches` shows what each of the things that make the difference gives by
itself, `--profile` where the time of a step goes.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parents[2]))

from data import load  # noqa: E402
from lab import layers, training  # noqa: E402
from lab.recipes import RECIPES  # noqa: E402
from lab.show import Table  # noqa: E402
from vae_helpers import VAE, Recipe, kl_divergence, to_pixels  # noqa: E402

NAMES = ("conv", "fc", "p1-conv", "celeba64")
SWITCHES = {"uint8": "uint8 set on the device, no DataLoader", "bf16": "bf16 products",
            "channels_last": "channels_last", "fused": "fused Adam",
            "products": "small maps as products"}


class Pictures(Dataset):
    """Images as torchvision gives them: opened anew at each access, and made a tensor."""

    def __init__(self, items, open_item: Callable, *steps: Callable):
        self.items, self.open_item = items, open_item
        self.transform = transforms.Compose([*steps, transforms.ToTensor()])

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.transform(self.open_item(self.items[i]))


def student_set(recipe: Recipe, images, root: Path, folder: Path) -> Dataset:
    """What the student's DataLoader reads; the stand-in's faces become JPEGs in the folder."""
    arrays = images.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, 3)
    if recipe.data == "cifar10":
        return Pictures(arrays, Image.fromarray)
    if images.real:
        files = sorted((root / "celeba" / "img_align_celeba").glob("*.jpg"))[:len(images)]
    else:
        files = [folder / f"{i:06d}.jpg" for i in range(len(images))]
        for file, array in zip(files, arrays, strict=True):
            Image.fromarray(array).resize((178, 218)).save(file, quality=90)
    return Pictures(files, Image.open, transforms.CenterCrop(178), transforms.Resize(recipe.side))


def student_step(recipe: Recipe, device: torch.device) -> Callable[[Tensor], float]:
    """One step of a fresh model as a student writes it; gives the batch's loss."""
    model = VAE(recipe).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)

    def step(x: Tensor) -> float:
        x = x.to(device)
        logits, mu, logvar = model(x, torch.randn(len(x), recipe.latent, device=device))
        error = F.binary_cross_entropy if recipe.reconstruction == "bce" else F.mse_loss
        total = error(to_pixels(recipe, logits), x, reduction="sum")
        loss = (total + kl_divergence(mu, logvar).sum()) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()  # as one does, to watch it

    return step


def student_loop(recipe: Recipe, pictures: Dataset, workers: int,
                 device: torch.device) -> Callable[[float], float]:
    """Trains for some seconds, gives images/s; the first batch, where workers start, is free."""
    step = student_step(recipe, device)
    loader = DataLoader(pictures, batch_size=recipe.batch, shuffle=True, num_workers=workers)

    def run(seconds: float) -> float:
        batches = endless(loader)

        def one() -> int:
            x = next(batches)
            step(x)
            return len(x)

        one()
        return rate_of(one, seconds)

    return run


def rate_of(step: Callable[[], int], seconds: float) -> float:
    """What the steps count, per second, over so many seconds."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += step()
    return done / (time.perf_counter() - start)


def endless(loader: DataLoader) -> Iterator[Tensor]:
    while True:
        yield from loader


def our_loop(recipe: Recipe, images: Tensor, device: torch.device,
             on: frozenset[str] = frozenset(SWITCHES),
             pictures: Dataset | None = None) -> Callable[[float], float]:
    """Runs `train_epoch` for about so many seconds, gives images/s.

    With the student's pictures the switches are as `on` says, otherwise nothing is touched.
    """
    layout = torch.channels_last if "channels_last" in on else torch.contiguous_format
    model = training.fresh(recipe, device).to(memory_format=layout)
    optimizer = training.make_optimizer(model)
    for group in optimizer.param_groups:
        group["fused"] = "fused" in on or None
    precision = training.choose_precision("auto" if "bf16" in on else "fp32", device)
    images, rate = training.on_device(images, device), 0.0

    def run(seconds: float) -> float:
        nonlocal rate
        count = int(rate * seconds) // recipe.batch or 2  # batches that fill the time
        index = torch.arange(count * recipe.batch) % len(images)
        chosen = images[index.to(images.device)]
        with switched(recipe, on, layout, pictures) if pictures else contextlib.nullcontext():
            record = training.train_epoch(model, optimizer, chosen, seed=0, epoch=1, epochs=1,
                                          precision=precision, tick=lambda text: None,
                                          folder=Path("."))
        rate = record["images_per_second"]
        return rate

    return run


@contextlib.contextmanager
def switched(recipe: Recipe, on: frozenset[str], layout: torch.memory_format, pictures: Dataset):
    """Our training with the switches of data, layout and layers set as named."""
    batches = endless(DataLoader(pictures, batch_size=recipe.batch, shuffle=True, drop_last=True))

    def batch_of(recipe, images, index, device):
        bytes_here = "uint8" in on
        x = images[index].to(device).float().div_(255) if bytes_here else next(batches).to(device)
        return x.contiguous(memory_format=layout)

    faster = layers.FASTER if "products" in on else {}
    with (mock.patch.object(training, "batch_of", batch_of),
          mock.patch.object(layers, "FASTER", faster)):
        yield


def flops(recipe: Recipe) -> float:
    """Operations of a training step per image: forward once, backward twice, two a multiply-add.

    The library's way of counting; the products of small maps do with 9 of 16 multiplications.
    """
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    side, adds = recipe.side, 0
    for layer in (m for m in VAE(recipe).modules() if isinstance(m, kinds)):  # down, then up again
        side //= 2 if isinstance(layer, nn.Conv2d) else 1  # the smaller of a convolution's two maps
        adds += layer.weight.numel() * (1 if isinstance(layer, nn.Linear) else side ** 2)
        side *= 2 if isinstance(layer, nn.ConvTranspose2d) else 1
    return 3 * 2 * adds


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of 2048^3 matrix products."""
    a = torch.rand(2048, 2048, device=device, dtype=dtype)

    def product() -> int:
        (a @ a)[0, 0].item()  # waits for the device
        return 2 * 2048 ** 3

    product()  # allocates
    return rate_of(product, 0.3)


def in_turns(contenders: dict[str, Callable[[float], float]], rounds: int,
             seconds: float) -> dict[str, list[float]]:
    """Rates of each contender by round, after two short turns that warm up."""
    for run in [*contenders.values()] * 2:
        run(min(seconds, 0.5))
    rates = {name: [] for name in contenders}
    for r in range(rounds):
        for name, run in contenders.items():
            rates[name].append(run(seconds))
        now = ", ".join(f"{name} {turns[-1]:,.4g}" for name, turns in rates.items())
        print(f"  {r + 1} of {rounds}: {now}", file=sys.stderr)
    return rates


def best_and_median(rates: list[float]) -> str:
    return f"{max(rates):,.0f} ({statistics.median(rates):,.0f})"


def ratios(rates: list[float], others: list[float]) -> str:
    """Best round over best round, and the median of the rounds' own ratios."""
    own = statistics.median(a / b for a, b in zip(rates, others, strict=True))
    return f"{max(rates) / max(others):.2f} ({own:.2f})"


def compare(recipe: Recipe, images, pictures: Dataset, device: torch.device, rounds: int,
            seconds: float) -> dict:
    """One row of the table: the student with the better number of workers, and our training."""
    contenders = {
        "student": student_loop(recipe, pictures, 0, device),
        "student, 2 workers": student_loop(recipe, pictures, 2, device),
        "ours": our_loop(recipe, images.images, device),
        "fp32 product": lambda _: product_rate(torch.float32, device)}
    if training.has_bf16(device):  # without instructions for it one product takes minutes
        contenders["bf16 product"] = lambda _: product_rate(torch.bfloat16, device)
    rates = in_turns(contenders, rounds, seconds)
    ours = rates["ours"]
    student = max(rates["student"], rates["student, 2 workers"], key=statistics.median)
    achieved = flops(recipe) * max(ours)
    return {"recipe": recipe.name, "student, images/s": best_and_median(student),
            "workers": 0 if student is rates["student"] else 2,
            "here, images/s": best_and_median(ours), "ratio": ratios(ours, student),
            "MFLOP an image": flops(recipe) / 1e6, "GFLOP/s": achieved / 1e9,
            **{f"of {a} {precision} product": achieved / max(rates[f"{precision} product"])
               if f"{precision} product" in rates else None
               for a, precision in (("a", "bf16"), ("an", "fp32"))}}


def compare_switches(recipe: Recipe, images, pictures, device, rounds: int,
                     seconds: float) -> list[dict]:
    """What each switch gives: turned on alone, and missed when it alone is off."""
    switches = [s for s in SWITCHES
                if recipe.network == "conv" or s not in ("channels_last", "products")]
    everything = frozenset(switches)
    sets = {"none": frozenset(), "all": everything}
    for s in switches:
        sets |= {f"only {s}": frozenset({s}), f"no {s}": everything - {s}}
    rates = in_turns({name: our_loop(recipe, images.images, device, on, pictures)
                      for name, on in sets.items()}, rounds, seconds)
    rows = [{"recipe": recipe.name, "switch": SWITCHES[s],
             "alone, × none": ratios(rates[f"only {s}"], rates["none"]),
             "last, × all others": ratios(rates["all"], rates[f"no {s}"])} for s in switches]
    both = dict.fromkeys(("alone, × none", "last, × all others"),
                         ratios(rates["all"], rates["none"]))
    return [*rows, {"recipe": recipe.name, "switch": "all", **both}]


def show_profile(recipe: Recipe, images: Tensor, device: torch.device) -> None:
    """The operations of some steps by their own time."""
    run = our_loop(recipe, images, device)
    in_turns({recipe.name: run}, 1, 1)
    with torch.profiler.profile() as profile:  # of all devices there are
        run(1)
    print(profile.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=NAMES, metavar="NAME", choices=list(RECIPES))
    parser.add_argument("--switches", action="store_true", help="what each switch gives")
    parser.add_argument("--profile", metavar="NAME", choices=list(RECIPES), help="only profile it")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=10_000, help="of the training set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="a turn")
    args = parser.parse_args()
    device, rows = training.choose_device(), []
    for recipe in (RECIPES[n] for n in ([args.profile] if args.profile else args.only)):
        images = load(recipe.data, "train", side=recipe.side, limit=args.images,
                      root=args.data_root)
        print(f"{recipe.name}: {images.source}", file=sys.stderr)
        if args.profile:
            return show_profile(recipe, images.images, device)
        with tempfile.TemporaryDirectory() as folder:
            pictures = student_set(recipe, images, args.data_root, Path(folder))
            timed = compare_switches if args.switches else compare
            row = timed(recipe, images, pictures, device, args.rounds, args.seconds)
            rows += row if args.switches else [row]
    print(f"\nBest round (median), {training.device_name(device)}, torch {torch.__version__}\n")
    print(Table(rows, {"MFLOP an image": ".0f", "GFLOP/s": ",.0f", "of a bf16 product": ".0%",
                       "of an fp32 product": ".0%"}))


if __name__ == "__main__":
    main()
