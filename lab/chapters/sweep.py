"""The comparison of settings: three settings of two networks, squared error, early stopping."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import NamedTuple

import torch
from matplotlib.ticker import NullLocator, ScalarFormatter
from torch import Tensor

from data import ImageSet, Splits
from lab import linear as pca
from lab.chapters.interpolation import (
    PATH_FORMATS,
    STEPS,
    doubling_exponent,
    known_doublings,
    path_numbers,
    path_row,
    unrelated_ends,
)
from lab.linear import linear_on, scores_of
from lab.recipes import RECIPES
from lab.runs import Run
from lab.session import Lab
from lab.show import Figure, Table, finite, labelled_rows
from lab.training import decode_set, draw_images, draw_prior, evaluate, lerp, summary
from vae_helpers import VAE, Recipe, build, new_figure, reference_lines, style_of

SETTINGS, NETWORKS, FACES = ("p1", "p2", "p3"), ("conv", "fc"), "celeba32"
LABELS = tuple(f"{setting}-{network}" for setting in SETTINGS for network in NETWORKS)
AGAIN = tuple(f"{label}, seed 1" for label in LABELS if label[:2] != "p3")      # second seeds
ON = "p1-fc-on"         # p1-fc with more patience than epochs, so that it is not stopped
CLAIMED = {"p1-conv": (18, 74.7), "p1-fc": (40, 80.7), "p2-conv": (21, 74.9), "p2-fc": (33, 78.2),
           "p3-conv": (15, 75.4), "p3-fc": (23, 82.6), FACES: (22, None)}     # epochs, loss
AFTER = 5               # epochs; the loss falls too fast before to tell steady from unsteady
TOLERANCE = 1e-3        # of the held-out loss, between what is stored and what weights give
OTHER_NOISE = 5e-3      # the same where the noise cannot be drawn again: four standard errors
SAMPLES = 1_000         # of each training, that are judged
SHOWN = 8               # of them
PAIRS = 100             # of random latent vectors


# ---- numbers of a training


class Linear(NamedTuple):
    """The loss of one linear VAE, the best there is for the training images, on each set."""

    train: float
    heldout: float
    test: float
    best: pca.LinearOptimum        # on the training images


class Axes(NamedTuple):
    """The spectrum of training images, and what a linear model of them needs of each set."""

    known: pca.Spectrum
    scores: tuple                       # of Splits' three sets

    def linear(self, recipe: Recipe) -> Linear:
        """The linear VAE of a recipe's latent size and weights of both terms."""
        sigma2, latent = recipe.sigma2, recipe.latent
        pairs = [linear_on(self.known, scores, sigma2, latent) for scores in self.scores]
        return Linear(*(recipe.sse_weight * error + recipe.beta * rate for rate, error in pairs),
                      pca.linear_optimum(self.known, sigma2, latent))


def axes_of(splits: Splits, top: int) -> Axes:
    """The axes of the training images, at most `top`, and the scores of all three sets."""
    known = pca.spectrum(splits.train.images, top=top)
    return Axes(known, tuple(scores_of(known, each.images) for each in splits))


def unsteadiness(losses: list[float], after: int = AFTER) -> float | None:
    """The standard deviation of a loss's steps from one epoch to the next, after so many epochs.

    0 for a loss that falls evenly, however steeply; None for less than two steps.
    """
    return finite(torch.tensor(losses[after - 1:], dtype=torch.float64).diff().std()
                  if len(losses) > after + 1 else None)


def rise_after_best(run: Run) -> float:
    """How far the test loss rises after the epoch whose weights are kept; 0 if that is the last."""
    best = run.chosen
    since = [h["test_loss"] for h in run.history if h["epoch"] >= best["epoch"]]
    return max(since) - best["test_loss"]


def numbers_of(run: Run, linear: Linear) -> dict[str, float | None]:
    """What the comparison is about: losses of the kept epoch, and how the training went."""
    best, own = run.chosen, linear.test - linear.train      # the sets differ for any model
    return {"epochs": len(run.history), "best": best["epoch"], "training_loss": best["loss"],
            "loss": best["heldout_loss"], "test_loss": best["test_loss"], "kl": best["test_kl"],
            "training_above_pca": best["loss"] - linear.train,
            "above_pca": best["test_loss"] - linear.test,
            "unsteady": unsteadiness(run.curve("heldout_loss")), "rise": rise_after_best(run),
            "gap": best["test_loss"] - best["loss"] - own,
            "gap_at_stop": run.last["test_loss"] - run.last["loss"] - own}


def heldout_loss(run: Run, heldout: ImageSet) -> float:
    """The held-out loss of a run's weights, computed as the training did, with the same noise.

    Weights that do not give the loss that is stored with them are refused. Noise is its device's:
    a CPU draws its own anywhere, a GPU's is not to be had without one.
    """
    model, on_cpu = run.model, run.device.startswith("CPU")
    if on_cpu:
        model = copy.deepcopy(model).cpu()
    device = next(model.parameters()).device
    terms = evaluate(model, heldout.images, seed=run.identity["seed"])
    now, stored = summary(run.recipe, terms)["loss"], run.chosen["heldout_loss"]
    tolerance = TOLERANCE if on_cpu == (device.type == "cpu") else OTHER_NOISE
    if not abs(now - stored) <= tolerance * abs(stored):
        raise ValueError(f"the weights in {run.folder} give a held-out loss of {now:.2f}, but "
                         f"{stored:.2f} is stored with them: delete that folder and train "
                         f"{run.recipe.name} again")
    return now


def random_paths(model: VAE, pairs: int, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    """Codes (pairs, steps, d) on straight lines between draws from N(0, I), and their frames."""
    a, b = draw_prior(2 * pairs, model.recipe.latent, seed).split(pairs)
    codes = lerp(a, b, steps)
    return codes, decode_set(model, codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


def key_of(label: str) -> str:
    """What findings call a training: p1_conv_seed1 for "p1-conv, seed 1"."""
    return label.replace(", ", "_").replace(" ", "").replace("-", "_")


# ---- the curves


def plot_settings(panels: dict[str, dict]):
    """Held-out loss by epoch, a panel a setting: best epochs, levels, and claims as crosses."""
    figure, grid = new_figure(2, 2, width=9, height=4.2)
    for axes in grid.flat[len(panels):]:
        axes.axis("off")
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
        for name, curve in panel["curves"].items():
            draw_curve(axes, name, curve)
        for network, (epoch, loss) in panel["claimed"].items():
            axes.plot(epoch, loss, "x", color=style_of(network)["color"], ms=8, mew=2,
                      label=f"{network}, claimed")
        reference_lines(axes, {"best linear model": panel["linear"]})
        low = min([panel["linear"], *(min(c["loss"]) for c in panel["curves"].values())])
        axes.set(xscale="log", ylabel="held-out loss, nats", title=title,
                 xticks=[1, 2, 5, 10, 20, 40], xlim=(0.9, 45), ylim=(low - 2, low + 33))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    for axes in grid[-1]:
        axes.set(xlabel="epoch")
    named = {name: line for axes in grid.flat
             for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), fontsize=8, ncols=4, loc="outside lower center")
    return figure


def draw_curve(axes, name: str, curve: dict) -> None:
    """One training's line, thin where it is not the setting's first, and a mark at its weights."""
    style, again = style_of(curve["network"]), curve["again"]
    axes.plot(curve["epoch"], curve["loss"], color=style["color"], lw=0.8 if again else 1.6,
              ls=":" if "not stopped" in name else style["ls"], alpha=0.6 if again else 1,
              label=name)
    best = curve["epoch"].index(curve["best"])
    axes.plot(curve["best"], curve["loss"][best], style["marker"], color=style["color"],
              ms=4 if again else 7, alpha=0.6 if again else 1)


# ---- the chapter

RANKED = {          # the last word of a finding, its head in the table of rankings, its format
    "epochs": ("epochs", ""), "test_loss": ("test loss", ".2f"),
    "unsteady": ("unsteadiness", ".2f"), "kid": ("KID of samples", ".3f"),
    "rise": ("rise after the best", ".2f"),
    "gap": ("gap at the best", ".2f"), "gap_at_stop": ("gap at the end", ".2f")}


class Chapter:
    """The trainings of the sweep, beside each other, the best linear model and what is claimed.

    `judge` measures samples of CIFAR-10; left out, it is the session's.
    """

    def __init__(self, lab: Lab, judge=None):
        self.lab, self.judge, self.seed = lab, judge, lab.settings.seed

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The trainings that are there."""
        runs = {label: self.lab.optional(label) for label in (*LABELS, FACES, *AGAIN, ON)
                if label in self.lab.wanted}
        return {label: run for label, run in runs.items() if run}

    @property
    def missing(self) -> Table:
        """What stands in the place of everything if nothing is trained."""
        return self.lab.absent(*LABELS, FACES, *AGAIN)

    @cached_property
    def axes(self) -> dict[str, Axes]:
        """By dataset; one decomposition serves all of a dataset's recipes."""
        recipes = {run.recipe.data: run.recipe for run in self.runs.values()}
        return {data: axes_of(self.lab.splits(recipe), top=256)
                for data, recipe in recipes.items()}

    def linear(self, label: str) -> Linear:
        recipe = self.runs[label].recipe
        return self.axes[recipe.data].linear(recipe)

    @cached_property
    def numbers(self) -> dict[str, dict[str, float | None]]:
        """The numbers of every training, kept as findings."""
        found, made = self.lab.found, {}
        for label, run in self.runs.items():
            made[label] = numbers_of(run, self.linear(label))
            for what, value in made[label].items():
                unit = "epochs" if what in ("epochs", "best") else "nats"
                found.keep(f"sweep.{key_of(label)}.{what}", value, unit, run)
            claimed = CLAIMED.get(label, (0, None))[1]
            if claimed is not None:
                found.keep(f"sweep.{key_of(label)}.above_claim", made[label]["loss"] - claimed,
                           "nats", run, "held-out loss less the one claimed")
        return made

    # ---- losses

    def losses(self) -> Table:
        """Every training's losses at its best epoch, what is claimed, and the linear model's."""
        if not self.runs:
            return self.missing
        rows = [self._row(label) for label in (*LABELS, FACES)] + self._linear_rows()
        return Table(rows, dict.fromkeys(("training loss", "held-out loss", "test loss"), ".2f")
                     | {"claimed loss": ".1f"}
                     | dict.fromkeys(("training less linear", "test less linear"), "+.2f"),
                     unshown=("training loss", "training less linear"))

    def _row(self, label: str) -> dict:
        """A row of numbers, or of gaps."""
        recipe, numbers = RECIPES[label], self.numbers.get(label, {})
        epochs, loss = CLAIMED[label]
        get = numbers.get
        return {"training": label if numbers else f"{label}: not trained here",
                "batch, rate, latent": f"{recipe.batch}, {recipe.lr:.0e}, {recipe.latent}".replace(
                    "e-0", "e-"),
                "epochs": get("epochs"), "claimed epochs": epochs, "best epoch": get("best"),
                "training loss": get("training_loss"), "held-out loss": get("loss"),
                "claimed loss": loss, "test loss": get("test_loss"),
                "training less linear": get("training_above_pca"),
                "test less linear": get("above_pca")}

    def _linear_rows(self) -> list[dict]:
        """The best linear model of each dataset, in closed form."""
        found, rows = self.lab.found, []
        for label, name, key in (("p1-conv", "CIFAR-10", "pca"), (FACES, "CelebA", "faces_pca")):
            if RECIPES[label].data in self.axes:
                linear = self.axes[RECIPES[label].data].linear(RECIPES[label])
                note = "best linear VAE of the training images, SSE + KL"
                for what in ("train", "heldout", "test"):
                    found.keep(f"sweep.{key}.{what}", getattr(linear, what), "nats", note=note)
                found.keep(f"sweep.{key}.active", linear.best.active, "directions", note=note)
                found.keep(f"sweep.{key}.rate", linear.best.rate, "nats", note=note)
                rows.append(dict.fromkeys(self._row(label)) | {
                    "training": f"*linear VAE, {name}*", "training loss": linear.train,
                    "held-out loss": linear.heldout, "test loss": linear.test})
        return rows

    def curves(self) -> Figure | Table:
        """Held-out loss by epoch with the best epoch, the linear model and the claims."""
        if not self.runs:
            return self.missing
        self.rankings()                                 # its numbers stand in the prose
        panels = {}
        for setting in (*SETTINGS, FACES):
            labels = [label for label in self.runs if label.startswith(setting)]
            if labels:
                recipe = self.runs[labels[0]].recipe
                title = f"{setting}: batch {recipe.batch}, rate {recipe.lr:g}, d = {recipe.latent}"
                panels[title] = self._panel(labels)
        return self.lab.figure(
            plot_settings(panels), "sweep-curves", "Held-out loss by epoch in three settings, of "
            "a convolutional and a fully connected network, and of faces, with the best epoch, "
            "the best linear model's loss and the claimed end of each")

    def _panel(self, labels: list[str]) -> dict:
        """The lines of one setting."""
        claims, curves = {}, {}
        for label in labels:
            run, what = self.runs[label], "seed 1" if label in AGAIN else "not stopped"
            network, again = run.recipe.network, label in (*AGAIN, ON)
            curves[f"{network}, {what}" if again else network] = {
                "network": network, "again": again, "epoch": run.curve("epoch"),
                "loss": run.curve("heldout_loss"), "best": run.chosen["epoch"]}
            if CLAIMED.get(label, (0, None))[1] is not None:
                claims[network] = CLAIMED[label]
        return {"linear": self.linear(labels[0]).heldout, "claimed": claims, "curves": curves}

    # ---- rankings

    @cached_property
    def kids(self) -> dict[str, float | None]:
        """The KID of every training's samples of CIFAR-10, kept as findings."""
        judge, found, made = self.judge or self.lab.judge, self.lab.found, {}
        for label, run in self.runs.items():
            if label != FACES:
                measured = judge.measure(draw_images(run.model, SAMPLES, self.seed))
                made[label] = found.keep(f"sweep.{key_of(label)}.kid", measured["kid"], "", run,
                                         f"{SAMPLES:,} samples")
                found.keep(f"sweep.{key_of(label)}.blur", measured["blur"], "pixels", run)
        return made

    def values(self, what: str, label: str) -> list[float]:
        """A number of a training and of its second seed, as far as they are there."""
        made = self.kids if what == "kid" else {
            name: numbers[what] for name, numbers in self.numbers.items()}
        both = (made.get(name) for name in (label, f"{label}, seed 1"))
        return [value for value in both if value is not None]

    def mean(self, what: str, label: str) -> float | None:
        """The mean over the seeds that are there."""
        values = self.values(what, label)
        return sum(values) / len(values) if values else None

    def spread(self, what: str, network: str) -> float | None:
        """The largest difference of two seeds in one setting."""
        pairs = [self.values(what, f"{setting}-{network}") for setting in SETTINGS]
        return max((abs(pair[0] - pair[1]) for pair in pairs if len(pair) == 2), default=None)

    def rankings(self) -> Table:
        """What the settings are ranked by, of every training, and how far two seeds are apart."""
        if not self.runs:
            return self.missing
        rows = []
        for network in NETWORKS:
            names = [name for label in LABELS if label.endswith(network)
                     for name in (label, f"{label}, seed 1") if name in (*LABELS, *AGAIN)]
            rows += [self._ranked(name) for name in names] + [self._apart(network)]
        rows += [self._ranked(ON)] if ON in self.lab.wanted else []
        self._decide()
        return Table(rows, dict(RANKED.values()))

    def _ranked(self, label: str) -> dict:
        there = label in self.runs
        numbers = self.numbers[label] | {"kid": self.kids[label]} if there else {}
        return {"training": label if there else f"{label}: not trained here"} | {
            head: numbers.get(what) for what, (head, _) in RANKED.items()}

    def _apart(self, network: str) -> dict:
        """How far two seeds are apart, the most over settings."""
        return {"training": f"*two seeds apart, {network}*"} | {
            head: self.lab.found.keep(f"sweep.spread.{what}_{network}", self.spread(what, network),
                                      note="largest difference of two seeds in one setting")
            for what, (head, _) in RANKED.items()}

    def _decide(self) -> None:
        """The margins by which the rankings hold, negative where they fail; means over seeds."""
        keep = self.lab.found.keep

        def means(what: str, network: str) -> list[float]:
            made = [self.mean(what, f"{setting}-{network}") for setting in SETTINGS]
            return made if None not in made else []

        for network in NETWORKS:
            keep(f"sweep.spread.loss_{network}", self.spread("loss", network), "nats",
                 note="largest difference of two seeds in one setting, held-out")
        for what in ("epochs", "test_loss"):
            pairs = list(zip(means(what, "fc"), means(what, "conv"), strict=False))
            keep(f"sweep.margin.{what}", min((fc - conv for fc, conv in pairs), default=None),
                 note="fc less conv, the least over settings")
        for network in NETWORKS:
            one, two = (self.mean("unsteady", f"{s}-{network}") for s in ("p1", "p2"))
            if None not in (one, two):
                keep(f"sweep.margin.unsteady_{network}", one - two, "nats", note="p1 less p2")
            for what in ("test_loss", "kid"):
                if made := means(what, network):
                    keep(f"sweep.range.{what}_{network}", max(made) - min(made),
                         note="largest less least, over settings")
        for name, what, setting in (("coherent", "kid", 1), ("improved", "test_loss", 2)):
            if made := means(what, "fc"):
                best = made.pop(setting)
                keep(f"sweep.margin.{name}", min(made) - best,
                     note=f"the better other setting less {SETTINGS[setting]}, fc")
        if {ON, "p1-fc"} <= self.runs.keys():
            keep("sweep.margin.stopped", self.numbers["p1-fc"]["test_loss"]
                 - self.numbers[ON]["test_loss"], "nats", note="p1-fc stopped less not stopped")
        keep("sweep.rise", max(self.numbers[label]["rise"] for label in self.runs), "nats",
             note="of the test loss after the best epoch, the largest")

    # ---- by name

    @cached_property
    def loaded(self) -> dict[str, float]:
        """Held-out loss of the weights of every training of the first seed, as they are loaded."""
        made = {label: heldout_loss(run, self.lab.splits(run.recipe).heldout)
                for label, run in self.runs.items() if label not in AGAIN}
        off = [abs(now / self.runs[label].chosen["heldout_loss"] - 1)
               for label, now in made.items()]
        self.lab.found.keep("sweep.loaded.off", max(off), "of the loss",
                            note=f"the largest of {len(off)} trainings")
        setting = self.lab.settings.setting
        if setting in made:
            self.lab.found.keep("sweep.loaded.loss", made[setting], "nats", self.runs[setting])
            self.lab.found.keep("sweep.loaded.stored", self.runs[setting].chosen["heldout_loss"],
                                "nats", self.runs[setting])
        return made

    def by_name(self) -> Figure | Table:
        """Eight samples of every setting, sixteen of SETTING, and its way between two draws.

        Weights that do not give the held-out loss stored with them are refused first.
        """
        if not self.runs:
            return self.missing
        chosen, rows = self.lab.settings.setting, {}
        for names in (*zip(LABELS[::2], LABELS[1::2], strict=True), (FACES,)):
            rows["\n".join(map(self._shown, names))] = self._side_by_side(
                [self._samples(name, SHOWN) for name in names])
        rows[f"{self._shown(chosen)},\nby its name"] = self._samples(chosen, 2 * SHOWN)
        if chosen in self.loaded:
            self.random_path()                          # its numbers stand in the prose
            _, frames = random_paths(self.runs[chosen].model, 1, self.seed, STEPS)
            rows["between two draws"] = self._side_by_side([frames[0]])
        return self.lab.figure(
            labelled_rows(rows, "Samples by setting, left convolution and right full connection; "
                          "one setting by its name", zoom=2, label=160),
            "sweep-samples", "Eight samples of each setting and network, sixteen of the one that "
            "is loaded by its name, and its ten decoded steps between two random latent vectors: "
            "patches of colour everywhere", picture=True)

    def _shown(self, label: str) -> str:
        return label if label in self.loaded else f"{label}: not trained here"

    def _samples(self, label: str, n: int) -> Tensor:
        """Samples of a training that is there; white where it is not."""
        if label not in self.loaded:
            return torch.ones(n, 3, 32, 32)
        return draw_images(self.runs[label].model, n, self.seed)

    def _side_by_side(self, parts: list[Tensor]) -> Tensor:
        """Images in one row of 2 x SHOWN places, white after the last."""
        images = torch.cat(parts)
        return torch.cat([images, torch.ones(2 * SHOWN - len(images), *images.shape[1:])])

    def random_path(self) -> Table:
        """The way between two random latent vectors in numbers, beside what needs no training."""
        label = self.lab.settings.setting
        if label not in self.runs:
            return self.lab.absent(label)
        run, rows = self.runs[label], []
        untrained = build(run.recipe, self.seed).eval()
        for key, name, model in (("path", label, run.model),
                                 ("path_untrained", f"*{label}, untrained*", untrained)):
            rows.append(self._path(key, name, model, run if model is run.model else None))
        ends = draw_images(run.model, 20, self.seed)
        gaps = dict.fromkeys(("smoothness", "smoothness_error", "evenness", "detour",
                              "norm_halfway", "sharpness_halfway"))
        for kind, exponent in known_doublings(ends, STEPS - 1, self.seed).items():
            rows.append(path_row(f"*{kind}, made*", gaps) | {"exponent": exponent})
        norm, sharpness = unrelated_ends(STEPS)
        rows.append(path_row("*ends that have nothing in common*", gaps | {
            "norm_halfway": norm, "sharpness_halfway": sharpness}) | {"exponent": None})
        return Table(rows, PATH_FORMATS | {"exponent": ".2f"})

    def _path(self, key: str, name: str, model: VAE, run: Run | None) -> dict:
        """A row for a model's ways between random latent vectors."""
        codes, frames = random_paths(model, PAIRS, self.seed, 2 * STEPS - 1)    # half-steps too
        numbers = path_numbers(frames[:, ::2], codes[:, ::2])
        exponent = doubling_exponent(frames[:, ::2], frames)
        for what, value in (numbers | {"doubling": exponent}).items():
            self.lab.found.keep(f"sweep.{key}.{what}", value, run=run,
                                note=f"{PAIRS} pairs of draws")
        return path_row(name, numbers) | {"exponent": exponent}
