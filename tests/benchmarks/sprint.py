"""From raw images to a test loss: `sprint` against a student's ten epochs of `conv`.

    python tests/benchmarks/sprint.py [--seeds 0 1 2]

The goal is the best test loss of ten epochs of `conv`, from its own curve in RUNS (train it with
`python -m lab train conv`). A student's loop trains that same recipe, so its seconds are the epochs
to that best times all images by its images/s, which is measured in turns with the sprints: some
seconds of each kind of student, then a whole `sprint`. A sprint is trained anew each time, in a
folder of its own, and all of it counts: the spectrum, the epoch, the evaluation on the test set,
what is written; not the precision, which is chosen once for a machine. Of the student nothing but
its steps counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import torch  # noqa: E402
from against_pythae import kept, reached  # noqa: E402
from against_student import student_loop, student_set  # noqa: E402

from data import Splits, load_splits  # noqa: E402
from lab import training  # noqa: E402
from lab.recipes import RECIPES  # noqa: E402
from lab.runs import Job, faster_precision  # noqa: E402
from lab.show import Progress, Table  # noqa: E402
from lab.starts import spectrum_of  # noqa: E402

CONV, SPRINT = RECIPES["conv"], RECIPES["sprint"]


def sprint(splits: Splits, seed: int, precision: str) -> dict:
    """A sprint from raw images: all its seconds, those of its epoch, its test loss."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = Job(SPRINT, splits, seed=seed, runs=folder, wanted=precision).train(
            Progress(f"sprint, seed {seed}", log=False))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "epoch": run.last["seconds"], "loss": run.last["test_loss"]}


def goal_of(splits: Splits, runs: Path) -> tuple[float, int] | None:
    """The best test loss of the first ten epochs of `conv` and the epochs to it, if it is kept."""
    history = kept("conv", splits, runs)[:CONV.epochs]
    if not history:
        return None
    epochs = reached(history, float("-inf"))
    return history[epochs - 1]["test_loss"], epochs


def turns(splits: Splits, seeds: list[int], seconds: float, precision: str) -> list[dict]:
    """For each seed the better student's images/s, then a sprint."""
    device, pictures = training.choose_device(), student_set(CONV, splits.train, Path(), Path())
    students = [student_loop(CONV, pictures, workers, device) for workers in (0, 2)]
    for student in students:
        student(1.0)  # allocates
    made = []
    for seed in seeds:
        pace = max(student(seconds) for student in students)
        made.append({"seed": seed, "pace": pace} | sprint(splits, seed, precision))
        print(f"  {made[-1]}", file=sys.stderr)
    return made


def rows_of(made: list[dict], goal: tuple[float, int] | None, n: int) -> list[dict]:
    """One row a seed, and the median of all; without a goal the student takes all ten epochs."""
    epochs = goal[1] if goal else CONV.epochs
    rows = [{"seed": m["seed"], "student, images/s": m["pace"],
             "student, seconds": epochs * n / m["pace"], "sprint, seconds": m["seconds"],
             "of them the epoch": m["epoch"], "student / sprint": epochs * n / m["pace"]
             / m["seconds"], "test loss": m["loss"]} for m in made]
    middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return [*rows, middle | {"seed": "median"}]


def verdict(made: list[dict], goal: tuple[float, int] | None) -> str:
    """Whether all sprints are at the goal, and how far apart their losses lie."""
    losses = [m["loss"] for m in made]
    spread = (f"test losses from {min(losses):.2f} to {max(losses):.2f}, "
              f"{max(losses) - min(losses):.2f} nats apart")
    if goal is None:
        return f"{spread}; RUNS holds no conv on these images, so there is no goal"
    there = sum(loss <= goal[0] for loss in losses)
    return (f"{there} of {len(losses)} sprints are at or below the goal of {goal[0]:.2f}, "
            f"conv's best of ten epochs, epoch {goal[1]}; {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each student, each time")
    parser.add_argument("--images", type=int, default=0,
                        help="of the training set; 0: all real ones, or 1,000 drawn ones")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    splits = load_splits("cifar10", 32, root=args.data_root, limit=args.images)
    if not splits.train.real and not args.images:
        splits = load_splits("cifar10", 32, root=args.data_root, limit=1_000)
    print(splits.train.source)
    if not splits.train.real:
        print("Real CIFAR-10 is not there: what follows only shows that this runs")
    device, n = training.choose_device(), len(splits.train)
    with tempfile.TemporaryDirectory() as folder:
        precision = faster_precision(Path(folder), device)
    goal = goal_of(splits, args.runs)
    start = time.perf_counter()
    spectrum_of(SPRINT, splits.train.images)
    seconds = time.perf_counter() - start
    made = turns(splits, args.seeds, args.seconds, precision)
    rows = rows_of(made, goal, n)
    print(f"\n{training.device_name(device)}, {precision} here and fp32 for the student, torch "
          f"{torch.__version__}, {n:,} images; the spectrum alone takes {seconds:.1f} s\n")
    formats = {"student / sprint": ".1f", "test loss": ".2f", "sprint, seconds": ".1f",
               "of them the epoch": ".1f", "seed": ""}
    print(Table(rows, dict.fromkeys(rows[0], ",.0f") | formats)._repr_markdown_())
    print(f"\n{verdict(made, goal)}")


if __name__ == "__main__":
    main()
