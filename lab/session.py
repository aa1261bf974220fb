"""The notebook's session: its parameters, images, jobs, findings and figures in one object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path

from data import Splits, load_splits
from lab.recipes import CHAPTERS, RECIPES, TRAININGS, Training, check_settings
from lab.runs import Job, Run, committed
from lab.show import Figure, Findings, Gallery, Progress, Table
from lab.training import choose_device
from vae_helpers import Recipe


class Lab:
    """What all chapters share. A training goes by a label: the recipe, and what differs from it."""

    # What a default run trains; everything else is loaded where it is finished, or trained with
    # EXTENSIONS.
    DEFAULT = ("small", "small-beta0", "small-ae", "small-mean", "small-sharp",
               "fc", "conv", "improved", "sprint", "celeba64")

    def __init__(self, namespace: dict):
        self.settings = check_settings(namespace)
        self.found = Findings()
        self.runs: dict[str, Run] = {}
        self._splits: dict[tuple, Splits] = {}

    # ---- images

    def splits(self, recipe: Recipe, crop: bool = True) -> Splits:
        """The images that a recipe trains on, read once."""
        key = recipe.data, recipe.side, recipe.holds_out, crop
        if key not in self._splits:
            progress = Progress(f"{recipe.data}, {recipe.side}×{recipe.side}", log=False)
            self._splits[key] = load_splits(
                recipe.data, recipe.side, chosen=recipe.holds_out, crop=crop,
                progress=progress.files, **self.settings.sources_of(recipe))
            progress.done()
        return self._splits[key]

    @cached_property
    def cifar(self) -> Splits:
        return self.splits(RECIPES["conv"])

    @cached_property
    def faces(self) -> Splits:
        return self.splits(RECIPES["celeba64"])

    @cached_property
    def permuted(self) -> Splits:
        """CIFAR-10 under one fixed permutation of its pixel positions."""
        return self.cifar.permuted(self.settings.seed)

    def banner(self) -> Table:
        """Where the images come from, what this run covers, and where its figures go."""
        sets = [s for splits in (self.cifar, self.faces) for s in (splits.train, splits.test)]
        real = all(s.real for s in sets)
        kind = "Real images" if real else "**Drawn stand-ins, not the real datasets**"
        cover = ("the full run" if self.settings.full
                 else "a shortened run, whose numbers are not those of the prose")
        where = self.gallery.folder.as_posix()
        rows = [{"set": s.name, "images": len(s), "source": s.source} for s in sets]
        return Table(rows, caption=f"{kind}; {cover}. Figures go to `{where}`; "
                     "everything is evaluated in fp32.")

    # ---- trainings

    def job(self, name: str | Recipe, splits: Splits | None = None, seed: int = 0,
            epochs: int = 0) -> Job:
        """The training of a recipe with the notebook's parameters; `seed` is added to SEED."""
        recipe, s = RECIPES[name] if isinstance(name, str) else name, self.settings
        return Job(recipe, splits or self.splits(recipe), epochs or s.epochs_of(recipe),
                   s.seed + seed, s.runs, s.device, s.precision)

    def train(self, name: str, splits: Splits | None = None, log: bool = True) -> Run:
        """A recipe that every run trains, or loads; its epochs are logged."""
        return self._done(name, self.job(name, splits), log)

    def optional(self, label: str) -> Run | None:
        """A training that is loaded where it is finished, done with EXTENSIONS, else left out."""
        job = self.wanted[label]
        if self.settings.extensions or job.finished:
            return self._done(label, job, log=False)
        return None

    def absent(self, *labels: str) -> Table:
        """What stands in the place of something whose trainings are missing, and their minutes."""
        rows = [{"training": label, "note": "not trained here; EXTENSIONS = True trains it",
                 "minutes of the committed run": minutes(self.wanted[label])} for label in labels]
        return Table(rows, {"minutes of the committed run": ".0f"})

    def _done(self, label: str, job: Job, log: bool) -> Run:
        if label not in self.runs:
            how = f"{label}: {job.epochs} epochs, {len(job.splits.train):,} images"
            self.runs[label] = job.train(Progress(how, log=log))
        return self.runs[label]

    @cached_property
    def wanted(self) -> Mapping[str, Job]:
        """The trainings beyond the default ones, by label; their images are read when asked for."""
        made = {self.label_of(training): partial(self.job_of, training) for training in TRAININGS
                if training.seed < 2 or self.settings.full}
        return Jobs({label: job for label, job in made.items() if label not in self.DEFAULT})

    def job_of(self, training: Training) -> Job:
        """A training that the committed notebook has, under these parameters."""
        recipe = RECIPES[training.name]
        return self.job(recipe, self.permuted if training.permuted else None, training.seed,
                        self.settings.epochs_of(recipe, training.epochs))

    def label_of(self, training: Training) -> str:
        """What a training is called: the recipe, and what differs from its usual run."""
        recipe, label = RECIPES[training.name], training.name
        if training.permuted:
            label += ", permuted"
        if training.epochs > recipe.epochs:
            label += f", {self.settings.epochs_of(recipe, training.epochs)} epochs"
        if training.seed:
            return f"{label}, seed {training.seed}"
        return f"{label}, half" if 0 < training.epochs < recipe.epochs else label

    def plan(self) -> Table:
        """Chapter by chapter, which trainings lie in RUNS already, and how long the others take."""
        jobs = {name: self.job(name) for name in self.DEFAULT} | dict(self.wanted)
        rows = []
        for chapter, names in CHAPTERS.items():
            for by in ("always", "EXTENSIONS"):
                some = {label: job for label, job in jobs.items() if job.recipe.name in names
                        and (label in self.DEFAULT) == (by == "always")}
                if some:
                    rows.append(plan_row(chapter, by, some))
        for by in ("always", "EXTENSIONS"):
            rows.append({"trainings of": "**in all**", "trained": by, "which": ""} | {
                key: sum(row[key] for row in rows if row["trained"] == by)
                for key in ("number", "finished", "minutes taken", "minutes to go")})
        return Table(rows, {"minutes taken": ".0f", "minutes to go": ".0f"})

    def trainings(self) -> list[dict]:
        """What results.json keeps of every training that was used."""
        return [{"training": label, "recipe": run.recipe.name, "images": run.identity["images"],
                 "seed": run.identity["seed"], "epochs": len(run.history),
                 "chosen": run.chosen["epoch"], "minutes": run.seconds / 60,
                 "images_per_second": run.identity["images"] / run.pace, "device": run.device,
                 "precision": run.precision, "run": run.hash}
                for label, run in self.runs.items()]

    # ---- judges, figures, results

    def _judge(self, name: str, splits: Splits):
        from lab.samples import Judge  # here, so that a training need not wait for it

        s = self.settings
        progress = Progress(f"the classifier behind {name}", log=False)
        made = Judge(name, splits.train, splits.test, runs=s.runs,
                     device=choose_device(s.device), epochs=min(s.epochs or 5, 5), seed=s.seed,
                     progress=progress.files)
        progress.done()
        return made

    @cached_property
    def judge(self):
        """How far images are from CIFAR-10's test images."""
        return self._judge("FD-CIFAR", self.cifar)

    @cached_property
    def face_judge(self):
        """How far images are from the test faces."""
        return self._judge("FD-CelebA", self.faces)

    @cached_property
    def gallery(self) -> Gallery:
        """FIGURES for a full run on real images or where it was asked for; else beside the runs."""
        s = self.settings
        earned = s.full and self.cifar.train.real and self.faces.train.real
        asked = s.figures != "figures"
        return Gallery(s.figures if earned or asked else Path(s.runs) / "figures")

    def figure(self, drawn, name: str, alt: str, picture: bool = False) -> Figure:
        """A figure kept under its number and name; it shows itself."""
        return self.gallery.keep(drawn, name, alt, picture)

    def write(self) -> Table:
        """Writes results.json beside the figures; what it holds."""
        path = self.gallery.folder / "results.json"
        trainings = self.trainings()
        self.found.write(path, trainings)
        return Table([{"file": f"`{path.as_posix()}`", "findings": len(self.found),
                       "trainings": len(trainings)}])


class Jobs(Mapping):
    """Jobs by label, each made when it is first asked for."""

    def __init__(self, makers: dict[str, Callable[[], Job]]):
        self.makers, self.made = makers, {}

    def __getitem__(self, label: str) -> Job:
        if label not in self.made:
            self.made[label] = self.makers[label]()
        return self.made[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def plan_row(chapter: str, by: str, jobs: dict[str, Job]) -> dict:
    """How many of a chapter's trainings are finished, and the minutes of all of them."""
    return {"trainings of": chapter, "trained": by, "which": ", ".join(jobs), "number": len(jobs),
            "finished": sum(job.finished for job in jobs.values()),
            "minutes taken": sum(h["seconds"] for job in jobs.values() for h in job.history) / 60,
            "minutes to go": sum(minutes(job) or 0 for job in jobs.values() if not job.finished)}


def minutes(job: Job) -> float | None:
    """What the committed notebook's training of this kind took."""
    return (committed(job) or {}).get("minutes")
