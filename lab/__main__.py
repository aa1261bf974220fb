"""One command line for everything beside the notebook: `python -m lab COMMAND --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from data import DataError, load_splits
from lab.files import Busy, Damaged, read_history, read_identity
from lab.prose import NotebookError
from lab.ranks import started
from lab.recipes import CHAPTERS, RECIPES, TRIAL_EPOCHS, TRIALS, Settings
from lab.runs import Job
from lab.show import Progress
from lab.training import is_finished
from vae_helpers import Recipe, build, count_parameters


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line asks; the exit status."""
    args = parser().parse_args(arguments)
    if not started().first:                             # torchrun's other processes do not speak
        sys.stdout = open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")        # a terminal without σ shows a question mark
    return in_sentences(lambda: args.do(args))


def parser() -> argparse.ArgumentParser:
    """The commands, each with the function that does it."""
    top = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do: Callable, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(do=do)
        return made

    command("run", lambda args: notebook().run(),
            "execute the notebook quickly, on few images, into runs/quick/")
    command("full", lambda args: notebook().full(),
            "the real run: execute the notebook in place, fill in its numbers, check it")
    made = command("train", train, "train recipes, or go on with them, without notebook")
    made.add_argument("names", nargs="+", metavar="NAME", choices=RECIPES, help="recipes")
    made.add_argument("--shard", type=shard, default="1/1", metavar="I/N",
                      help="train only the I-th of every N of this list, as one of N workers")
    add_settings(made, seeds="+")
    add_settings(command("trials", trials, "train what was tried for the improvement"))
    command("list", list_runs, "show the recipes and what is trained of each").add_argument(
        "--runs", default="runs")
    checked = command("check", check, "say what keeps an executed notebook from being committed")
    checked.add_argument("files", nargs="*", type=Path)
    checked.add_argument("--refresh", action="store_true",
                         help="first run anew the cells that need neither data nor training")
    command("clean", clean, "remove what an execution leaves behind beside the outputs"
            ).add_argument("files", nargs="*", type=Path)
    command("readme", readme,
            "write the numbers of the last full run into README.md and the notebook's prose")
    command("html", html, "export the notebook to one HTML file")
    command("pdf", pdf, "set the notebook as a PDF, with what `make pdf` installs for it")
    command("grade", grade, "show every answer with a number, a figure and the cell to look at")
    return top


OPTIONS = {
    "epochs": (int, "passes over the images; 0: the recipe's own"),
    "limit": (int, "images to train on; 0: all"), "runs": (str, "folder of trained models"),
    "data": (str, "real, standin, or auto: real where it lies"),
    "data-root": (str, "folder of the datasets"), "device": (str, "cuda, mps, cpu or auto"),
    "precision": (str, "bf16, fp32, or auto: that of a run that is begun, else the faster one")}


def add_settings(made: argparse.ArgumentParser, seeds: str | None = None) -> None:
    """The notebook's parameters that decide a training, as options."""
    for name, (kind, text) in OPTIONS.items():
        field = "train_limit" if name == "limit" else name.replace("-", "_")
        default = getattr(Settings, field)
        made.add_argument(f"--{name}", type=kind, dest=field, default=default,
                          help=f"{text} ({default})")
    made.add_argument("--seed", type=int, nargs=seeds, default=[0] if seeds else 0, help="decides "
                      "weights, order and noise" + "; of several, each is a training" * bool(seeds))


def settings_of(args: argparse.Namespace) -> Settings:
    fields = ("epochs", "seed", "train_limit", "data", "data_root", "runs", "device", "precision")
    return Settings(**{name: getattr(args, name) for name in fields})


def splits_of(recipe: Recipe, settings: Settings, chosen: bool):
    """The images that a recipe trains on, and where they come from, said."""
    progress = Progress(f"images for {recipe.name}")
    splits = load_splits(recipe.data, recipe.side, chosen=chosen, progress=progress.files,
                         **settings.sources_of(recipe))
    progress.done()
    print(splits.train.source)
    return splits


def train(args: argparse.Namespace) -> None:
    """Trains a list of recipes, from each seed; what another process is training is left to it."""
    jobs = [(name, seed) for name in args.names for seed in args.seed]
    for name, seed in args.shard(jobs):
        args.seed, recipe = seed, RECIPES[name]
        s = settings_of(args)
        splits = splits_of(recipe, s, chosen=bool(recipe.patience))
        job = Job(recipe, splits, s.epochs_of(recipe), s.seed, s.runs, s.device, s.precision)
        try:
            print(job.train())
        except Busy as busy:
            print(f"left to another process: {busy}")


def shard(text: str) -> Callable[[list], list]:
    """"2/4" as what takes the second of every four of a list."""
    try:
        i, n = map(int, text.split("/"))
    except ValueError:
        i = n = 0
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of n parts, such as 1/4")
    return lambda jobs: jobs[i - 1::n]


def trials(args: argparse.Namespace) -> None:
    s = settings_of(args)
    splits = splits_of(RECIPES["improved"], s, chosen=True)._replace(test=None)    # they choose
    for name, recipe in TRIALS.items():
        job = Job(recipe, splits, s.epochs or TRIAL_EPOCHS, s.seed, s.runs, s.device, s.precision)
        run = job.train(Progress(name.replace("`", "")))
        print(f"held-out loss {run.last['heldout_loss']:.1f}")


def list_runs(args: argparse.Namespace) -> None:
    """Prints every chapter's recipes, and under each the runs of that name; a damaged one last."""
    kept: dict[str, list[Listed]] = {}
    for path in sorted(Path(args.runs).glob("*/run.json")):
        run = listed(path.parent)
        kept.setdefault(run.name, []).append(run)
    for chapter, names in CHAPTERS.items():
        runs = [run for name in names for run in kept.get(name, [])]
        done = sum(run.finished for run in runs)
        print(f"{chapter}: {len(names)} recipes, {done} finished runs, "
              f"{sum(run.minutes for run in runs):.0f} minutes")
        for name in names:
            recipe = RECIPES[name]
            print(f"  {name:13s} {recipe.data} {recipe.side}x{recipe.side}, {recipe.network} "
                  f"{'-'.join(map(str, recipe.widths))}, latent {recipe.latent}, "
                  f"{recipe.reconstruction}, {recipe.epochs} epochs, "
                  f"{count_parameters(build(recipe)):,} parameters")
            for run in kept.pop(name, []):
                print(f"      {run.text}")
    for run in (run for runs in kept.values() for run in runs):
        print(run.text)


class Listed(NamedTuple):
    """A folder of a run as `list` shows it; one that is damaged has no name."""

    name: str
    text: str
    finished: bool = False
    minutes: float = 0.0


def listed(folder: Path) -> Listed:
    """What a folder says of its run, without the weights."""
    try:
        identity, history = read_identity(folder), read_history(folder)
    except Damaged as trouble:
        return Listed("", str(trouble))
    fields, epochs = identity["recipe"], identity["epochs"]
    last = f", loss {history[-1]['loss']:.1f}, KL {history[-1]['kl']:.1f}" if history else ""
    text = (f"{folder.name}: {len(history)} of {epochs} epochs, seed {identity['seed']}, "
            f"{identity['images']:,} images, {identity['precision']}{last}")
    known = RECIPES.get(fields["name"])
    done = len(history) == epochs or bool(known) and is_finished(known, history, epochs)
    return Listed(fields["name"], text, done, sum(h["seconds"] for h in history) / 60)


def notebook():
    """What works on the notebook; imported where it is asked for, since a training needs none."""
    from lab import submission

    return submission


def check(args: argparse.Namespace) -> None:
    if args.refresh:
        for path in args.files or [None]:
            notebook().refresh(path)
    notebook().check(args.files)


def clean(args: argparse.Namespace) -> None:
    for path in args.files or [None]:
        notebook().clean(path)


def readme(args: argparse.Namespace) -> None:
    notebook().readme()
    notebook().fill()


def html(args: argparse.Namespace) -> None:
    from lab.export import export

    print(notebook().relative(export(notebook().NOTEBOOK)))


def pdf(args: argparse.Namespace) -> None:
    from lab.pdf import typeset

    print(notebook().relative(typeset(notebook().NOTEBOOK)))


def grade(args: argparse.Namespace) -> None:
    from lab import grade as screen

    screen.grade()


def in_sentences(work: Callable[[], None]) -> int:
    """Does the work; an interruption or a foreseen failure is one sentence. The exit status."""
    try:
        work()
    except KeyboardInterrupt:
        print("\nstopped; finished epochs are kept, and the same command goes on from there",
              file=sys.stderr)
        return 130
    except (DataError, NotebookError, ValueError, OSError, RuntimeError, ArithmeticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
