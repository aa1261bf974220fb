"""The notebook's one object: its parameters, images, runs, findings and figures."""

import functools
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from torch import Tensor

from data import ImageSet, Splits, load_splits
from lab.linear import entropy_floor
from lab.recipes import RECIPES, TRAININGS, Training, check_settings
from lab.runs import Job, Run, committed, log_epochs
from lab.show import Figure, Findings, Progress, Table, keep_figure, keep_moving
from lab.training import choose_device, encode_set
from vae_helpers import Recipe


class Lab:
    """What all chapters share: their functions take it first."""

    # What every run trains; the others are loaded where they are finished, or need EXTENSIONS.
    DEFAULT = ("small", "small-beta0", "small-ae", "small-mean", "small-sharp",
               "fc", "conv", "improved", "sprint", "celeba64")

    def __init__(self, namespace: dict):
        self.settings = check_settings(namespace)
        self.found = Findings()
        self.runs: dict[Training, Run] = {}     # that were used
        self.kept: dict[tuple, object] = {}     # what `once` keeps

    # ---- images

    def splits(self, recipe: str | Recipe, crop: bool = True) -> Splits:
        """The images that a recipe trains on, read once."""
        recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
        key = "splits", recipe.data, recipe.side, recipe.holds_out, crop
        if key not in self.kept:
            progress = Progress(f"{recipe.data}, {recipe.side}×{recipe.side}", log=False)
            self.kept[key] = load_splits(
                recipe.data, recipe.side, chosen=recipe.holds_out, crop=crop,
                progress=progress.files, **self.settings.sources_of(recipe))
            progress.done()
        return self.kept[key]

    @property
    def cifar(self) -> Splits:
        return self.splits("conv")

    @property
    def faces(self) -> Splits:
        return self.splits("celeba64")

    @cached_property
    def permuted(self) -> Splits:
        """CIFAR-10 under one fixed permutation of its pixel positions."""
        return self.cifar.permuted(self.settings.seed)

    @cached_property
    def full(self) -> bool:
        """Whether numbers are those that the committed notebook is to show: nothing is shortened,
        the images are real, and no training is left out."""
        return (self.settings.full and all(each.real for each in self.shown_sets)
                and all(self.has(*training) for training in TRAININGS))

    @property
    def shown_sets(self) -> list[ImageSet]:
        return [each for splits in (self.cifar, self.faces) for each in (splits.train, splits.test)]

    def banner(self) -> Table:
        """Where the images come from, what this run covers, and where its figures go."""
        sets = self.shown_sets
        kind = ("Real images" if all(s.real for s in sets)
                else "**Drawn stand-ins, not the real datasets**")
        cover = ("the full run" if self.full
                 else "less than the full run, so that its numbers are not those of the prose")
        rows = [{"set": s.name, "images": len(s), "source": s.source} for s in sets]
        return Table(rows, caption=f"{kind}; {cover}. Figures go to `{self.folder.as_posix()}`.")

    # ---- trainings

    def job(self, training: str | Recipe | Training) -> Job:
        """A training with the notebook's parameters; its seed is added to SEED."""
        s = self.settings
        if isinstance(training, Recipe):
            recipe, training = training, Training(training.name)
        else:
            training = Training(training) if isinstance(training, str) else training
            recipe = RECIPES[training.name]
        splits = self.permuted if training.permuted else self.splits(recipe)
        return Job(recipe, splits, s.epochs_of(recipe, training.epochs), s.seed + training.seed,
                   s.runs, s.device, s.precision)

    def train(self, name: str) -> Run:
        """A recipe's training, with a line for every epoch, trained now or before."""
        training = Training(name)
        job = self.job(training)
        progress = Progress(f"{name}: {job.epochs} epochs, {len(job.images):,} images")
        if training in self.runs:
            log_epochs(self.runs[training].history, job.epochs, progress)
            progress.done()
        else:
            self.runs[training] = job.train(progress)
        return self.runs[training]

    def run(self, name: str, seed: int = 0, epochs: int = 0, permuted: bool = False) -> Run:
        """A training, loaded or trained without a log. Ask `has` first for what is optional."""
        training = Training(name, seed, epochs, permuted)
        if training not in self.runs:
            job = self.job(training)
            self.runs[training] = job.train(Progress(
                f"{called(training)}: {job.epochs} epochs, {len(job.images):,} images", log=False))
        return self.runs[training]

    def has(self, name: str, seed: int = 0, epochs: int = 0, permuted: bool = False) -> bool:
        """Whether `run` gives it without more work than these parameters ask for.

        A shortened run trains the first seed alone; further ones are used where they lie.
        """
        training = Training(name, seed, epochs, permuted)
        wanted = self.settings.extensions and (seed == 0 or not self.settings.shortened)
        return (training in self.runs or training in map(Training, self.DEFAULT) or wanted
                or self.finished(training))

    def finished(self, training: Training) -> bool:
        """Whether it can be loaded; images are read only where a folder has its name."""
        named = any(Path(self.settings.runs).glob(f"{training.name}-*/state.pt"))
        return named and self.job(training).finished

    def seeds(self, name: str, **which) -> list[Run]:
        """A recipe's trainings from all seeds that are there, the first one first."""
        wanted = [each for each in TRAININGS if each == Training(name, each.seed, **which)]
        return [self.run(*each) for each in wanted if self.has(*each)]

    def absent(self, *trainings: Training) -> Table:
        """What stands in the place of something whose trainings are missing, and their minutes."""
        rows = []
        for training in trainings:
            epochs = self.settings.epochs_of(RECIPES[training.name], training.epochs)
            took = committed(training.name, epochs)
            rows.append({"not trained here": called(training),
                         "what trains it": "EXTENSIONS = True, then Restart & Run All",
                         "minutes of the committed run": took and took["minutes"]})
        return Table(rows, {"minutes of the committed run": ".0f"})

    def trainings(self) -> list[dict]:
        """What results.json keeps of every training that was used."""
        return [{"training": called(training), "recipe": run.recipe.name,
                 "images": run.identity["images"], "seed": run.identity["seed"],
                 "epochs": len(run.history), "chosen": run.chosen["epoch"],
                 "minutes": run.seconds / 60,
                 "images_per_second": run.identity["images"] / run.pace, "device": run.device,
                 "precision": run.precision, "run": run.hash,
                 "test_loss": run.chosen["test_loss"], "test_kl": run.chosen["test_kl"],
                 "test_floor": self.test_floor(run.recipe)}
                for training, run in self.runs.items()]

    def test_floor(self, recipe: Recipe) -> float | None:
        """What a recipe loses on test images with x_hat = x; None where sigma is learned."""
        if recipe.reconstruction == "gaussian":
            sigma = recipe.sigma
            return recipe.pixels * math.log(sigma * math.sqrt(2 * math.pi)) if sigma else None
        if recipe.reconstruction == "sse":
            return 0.0
        key = "test_floor", recipe.data, recipe.side
        if key not in self.kept:
            self.kept[key] = entropy_floor(self.splits(recipe).test.images)
        return self.kept[key]

    def log(self) -> Table:
        """Every training that was used."""
        rows = [{"training": each["training"], "images": each["images"], "epochs": each["epochs"],
                 "test loss": each["test_loss"], "test KL": each["test_kl"],
                 "minutes": each["minutes"], "on": f"{each['device']}, {each['precision']}"}
                for each in self.trainings()]
        return Table(rows, {"test loss": ",.1f", "test KL": ".1f", "minutes": ".1f"},
                     fold=f"All {len(rows)} trainings")

    def codes(self, run: Run, part: str = "test") -> tuple[Tensor, Tensor]:
        """mu and logvar (N, d) of a recipe's images, as its run's model gives them; worked out
        once."""
        key = "codes", run.hash, part
        if key not in self.kept:
            images = getattr(self.splits(run.recipe), part).images
            self.kept[key] = encode_set(run.model, images)
        return self.kept[key]

    # ---- judges, figures, results

    def judge_of(self, name: str, seed: int = 0, trained: bool = True):
        """A small classifier of the images that `name` says, FD-CIFAR or FD-CelebA, whose features
        say how far images are from the test images; or the same network untrained."""
        from lab.samples import Judge  # here, so that a training need not wait for it

        key, s = ("judge", name, seed, trained), self.settings
        if key not in self.kept:
            splits = {"FD-CIFAR": self.cifar, "FD-CelebA": self.faces}[name]
            progress = Progress(f"the classifier behind {name}", log=False)
            self.kept[key] = Judge(name, splits.train, splits.test, runs=s.runs,
                                   device=choose_device(s.device),
                                   epochs=min(s.epochs or 5, 5) if trained else 0,
                                   seed=s.seed + seed, progress=progress.files)
            progress.done()
        return self.kept[key]

    @property
    def judge(self):
        return self.judge_of("FD-CIFAR")

    @property
    def face_judge(self):
        return self.judge_of("FD-CelebA")

    @cached_property
    def folder(self) -> Path:
        """FIGURES for a full run on real images or where it was asked for; else beside the runs."""
        asked = self.settings.figures != "figures"
        return Path(self.settings.figures if self.full or asked
                    else Path(self.settings.runs) / "figures")

    def figure(self, drawn, name: str, alt: str, picture: bool = False) -> Figure:
        """A figure kept under its name; it shows itself. A picture keeps all its colours."""
        return keep_figure(drawn, self.folder / name, alt, picture)

    def moving(self, frames: Tensor, name: str, alt: str, zoom: int = 1) -> Figure:
        """Frames (n, k, 3, H, W) of k images side by side, kept under their name; the figure
        moves, and stops after three rounds."""
        return keep_moving(frames, self.folder / name, alt, zoom)

    def write(self) -> Table:
        """Writes results.json beside the figures; what it holds."""
        path, trainings = self.folder / "results.json", self.trainings()
        self.found.write(path, trainings)
        return Table([{"file": f"`{path.as_posix()}`", "findings": len(self.found),
                       "trainings": len(trainings)}])


def called(training: Training) -> str:
    """A training in words: the recipe, and what differs from its usual run."""
    words = [training.name, "permuted" * training.permuted,
             f"{training.epochs} epochs" if training.epochs else "",
             f"seed {training.seed}" if training.seed else ""]
    return ", ".join(filter(None, words))


# ---- for chapters


def once(function: Callable) -> Callable:
    """A chapter's function of the Lab, and of what can be a key, whose value is kept there."""
    @functools.wraps(function)
    def kept(lab: Lab, *key):
        key = function.__module__, function.__name__, *key
        if key not in lab.kept:
            lab.kept[key] = function(lab, *key[2:])
        return lab.kept[key]
    return kept


def needs(*wanted: str | Training) -> Callable:
    """Marks a chapter's function with the optional trainings that it takes: where one is missing,
    its cell shows which, and what trains it."""
    trainings = [Training(each) if isinstance(each, str) else each for each in wanted]

    def mark(function: Callable) -> Callable:
        @functools.wraps(function)
        def shown(lab: Lab, *arguments, **options):
            missing = [training for training in trainings if not lab.has(*training)]
            return lab.absent(*missing) if missing else function(lab, *arguments, **options)
        return shown
    return mark
