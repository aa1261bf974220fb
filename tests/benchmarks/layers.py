"""The library's 4x4 layers of stride 2 against our products on this CPU, and training's bound.

    python tests/benchmarks/layers.py [--minutes 3] [--no-bound]

Every layer that a recipe has, forward and backward at the recipe's batch, in turns; a ratio above 1
says that the products are faster, and the last line which rows contradict FASTER in lab/layers.py.
bf16 is measured only where there are instructions for it. The second table divides the rate at
which the CPU multiplies matrices by the multiplications that a training step has left: nothing
trains faster than that. "2048³" is a large square product, "its shapes" the step's own products
without anything around them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from against_student import SWITCHES, in_turns, our_loop, product_rate, rate_of  # noqa: E402
from counting import DTYPES, Layer, layers_of, multiplications, step_products  # noqa: E402

from lab import layers as ours  # noqa: E402
from lab import training  # noqa: E402
from lab.recipes import RECIPES  # noqa: E402
from lab.show import Table  # noqa: E402
from vae_helpers import Recipe  # noqa: E402

CPU = torch.device("cpu")
BOUNDED = ("conv", "p1-conv", "fc")
MARGIN = 1.1


def wanted() -> list[tuple[Layer, int]]:
    """Every 4x4 layer of stride 2 of the recipes with every batch that it is trained with."""
    pairs = {(layer, recipe.batch) for recipe in RECIPES.values() for layer in layers_of(recipe)
             if layer.kind != "dense"}
    return sorted(pairs, key=lambda pair: (pair[0].kind, pair[0].side, *pair[0][1:3], pair[1]))


def contradicts(ratio: float, by_products: bool) -> bool:
    """Whether what the table chooses is slower than the other by more than the margin."""
    return ratio < 1 / MARGIN if by_products else ratio > MARGIN


def timed(layer: Layer, batch: int, precision: str, by_products: bool) -> Callable[[], float]:
    """Seconds of one forward and backward pass of the layer, one way or the other."""
    kind, inputs, outputs, side, first = layer
    make = nn.Conv2d if kind == "down" else nn.ConvTranspose2d
    module = ours.fast(make(inputs, outputs, 4, stride=2, padding=1))
    module = module.to(memory_format=torch.channels_last)
    given = side if kind == "down" else side // 2
    x = torch.rand(batch, inputs, given, given).to(layer.dtype(precision),
                                                   memory_format=torch.channels_last)
    x.requires_grad_(not first)
    made = side // 2 if kind == "down" else side
    gradient = torch.rand(batch, outputs, made, made).to(DTYPES[precision],
                                                         memory_format=torch.channels_last)
    table = {("cpu", p): ((side, 0),) for p in DTYPES} if by_products else {}

    def run() -> float:
        module.weight.grad = module.bias.grad = x.grad = None
        start = time.perf_counter()
        with mock.patch.object(ours, "FASTER", table), training.autocast(CPU, precision):
            y = module(x)
        y.backward(gradient)
        return time.perf_counter() - start

    return run


def compare(layer: Layer, batch: int, precision: str, seconds: float) -> dict:
    """One row: both ways in turns for about so many seconds, at least three times."""
    library, products = (timed(layer, batch, precision, way) for way in (False, True))
    turns, end = [], time.perf_counter() + seconds
    library(), products()  # allocate
    while len(turns) < 3 or time.perf_counter() < end:
        turns.append((library(), products()))
    ratio = statistics.median(a / b for a, b in turns)
    chosen = layer.by_products(precision)
    slow, fast = (1e3 * statistics.median(column) for column in zip(*turns, strict=True))
    return {"layer": f"{layer.kind} {layer.inputs}→{layer.outputs}",
            "larger map": f"{layer.side}×{layer.side}", "batch": batch, "precision": precision,
            "library, ms": slow, "products, ms": fast, "library / products": ratio,
            "FASTER says": "products" if chosen else "library",
            "turns": len(turns), "against it": "×" if contradicts(ratio, chosen) else ""}


def own_products(recipe: Recipe, precision: str) -> Callable[[float], float]:
    """Runs a step's products and nothing else for some seconds, gives images/s."""
    pairs = [(torch.rand(n, M, K).to(DTYPES[precision]), torch.rand(n, K, N).to(DTYPES[precision]))
             for n, M, K, N in step_products(recipe, precision)]

    def step() -> int:
        for a, b in pairs:
            torch.bmm(a, b)
        return recipe.batch

    return lambda seconds: rate_of(step, seconds)


def bound(recipe: Recipe, precision: str) -> dict:
    """One row: what training reaches of what the machine's products allow."""
    noise = torch.randint(0, 256, (20 * recipe.batch, 3, recipe.side, recipe.side),
                          dtype=torch.uint8)
    switches = frozenset(SWITCHES) - ({"bf16"} if precision == "fp32" else set())
    rates = in_turns({"square": lambda _: product_rate(DTYPES[precision], CPU),
                      "shapes": own_products(recipe, precision),
                      "trained": our_loop(recipe, noise, CPU, switches)}, rounds=3, seconds=1.0)
    square, shapes, trained = (max(rates[name]) for name in ("square", "shapes", "trained"))
    left = 2 * multiplications(recipe, precision)
    return {"recipe": recipe.name, "precision": precision, "million multiplications": left / 2e6,
            "GFLOP/s, 2048³": square / 1e9, "GFLOP/s, its shapes": shapes * left / 1e9,
            "bound, 2048³": square / left, "bound, its shapes": shapes,
            "trained, images/s": trained, "of 2048³": trained * left / square,
            "of its shapes": trained / shapes}


def say_against(rows: list[dict]) -> str:
    """The last line: the rows where the table chooses what is slower by more than the margin."""
    named = [f"{row['layer']} on {row['larger map']}, batch {row['batch']}, {row['precision']} "
             f"({row['library / products']:.2f}, FASTER says {row['FASTER says']})"
             for row in rows if row["against it"]]
    return (f"{len(named)} of {len(rows)} rows contradict FASTER by more than {MARGIN - 1:.0%}"
            + (f": {'; '.join(named)}" if named else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="for the table of layers")
    parser.add_argument("--no-bound", action="store_true", help="only the table of layers")
    args = parser.parse_args()
    precisions = ("fp32", "bf16") if training.has_bf16(CPU) else ("fp32",)
    cases = [(layer, batch, p) for layer, batch in wanted() for p in precisions]
    rows = []
    for i, case in enumerate(cases, 1):
        rows.append(compare(*case, seconds=60 * args.minutes / len(cases)))
        print(f"  {i} of {len(cases)}: {list(rows[-1].values())}", file=sys.stderr)
    kind = torch.backends.cpu.get_cpu_capability()
    print(f"\n{training.device_name(CPU)}, {kind}, torch {torch.__version__}, medians\n")
    print(Table(rows, {"library / products": ".2f"})._repr_markdown_())
    if not args.no_bound:
        bounds = [bound(RECIPES[name], p) for name in BOUNDED for p in precisions]
        formats = {"million multiplications": ",.1f", "of 2048³": ".0%", "of its shapes": ".0%"}
        print("\nThe bound, images/s where nothing else is said, best rounds\n")
        print(Table(bounds, dict.fromkeys(bounds[0], ",.0f") | formats)._repr_markdown_())
    print(f"\n{say_against(rows)}")


if __name__ == "__main__":
    main()
