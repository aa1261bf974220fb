"""β at 128×128: what the weight of the KL does to a VAE of faces, foretold before any training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from data import Splits
from lab import latent, samples
from lab import linear as pca
from lab.chapters.faces import predicted
from lab.chapters.interpolation import (
    STEPS,
    doubling_exponent,
    extremes,
    middle,
    path_numbers,
    paths_between,
    sharpness_along,
)
from lab.latent import (
    TURNS,
    correspondence,
    largest_move,
    live,
    match_live,
    one_factor,
    ratio_of_means,
    traverse,
    turned,
)
from lab.linear import LinearOptimum, Scores, Spectrum, linear_on, scores_of
from lab.recipes import RECIPES
from lab.runs import Job, Run
from lab.session import Lab
from lab.show import Figure, Table, finite, labelled_rows
from lab.training import decode_set, encode_set, lerp
from vae_helpers import GREY, VAE, Recipe, as_pixels, kl_divergence, new_figure, style_of

BETAS = (1, 4, 10)
RUNS = {"1": "celeba128, half", "1_long": "celeba128", "4": "celeba128-b4", "10": "celeba128-b10",
        "1_seed1": "celeba128, seed 1"}
EQUAL = ("1", "4", "10")            # of equal epochs
COMPARED = {"1_4": ("1", "4"), "1_10": ("1", "10"), "4_10": ("4", "10"),    # one seed
            "seed1_4": ("1_seed1", "4"), "seed1_10": ("1_seed1", "10"),     # two
            "seeds": ("1", "1_seed1"), "longer": ("1", "1_long")}           # controls
WORDS = {"1": "β = 1", "4": "β = 4", "10": "β = 10", "1_seed1": "β = 1, seed 1",
         "1_long": "β = 1, 10 epochs"}                          # in the table of these pairs
DIMS = (8, 25, 68)                  # those that the earlier submission shows
LINEAR_BETAS = [10 ** (k / 5) for k in range(-1, 8)]    # of the linear curve, 0.6 to 25
SHOWN, LABEL = 8, 165               # images in a row, pixels for its name
PAIRS, DOUBLED = 32, 8              # pairs of faces with a path; of these with twice the steps


# ---- foretold


class Foretold(NamedTuple):
    """What a linear VAE does at some β, on the faces that it is of and on test faces."""

    best: LinearOptimum
    test_rate: float
    test_error: float


def at_equal_variance(recipe: Recipe, beta: float) -> tuple[float, float]:
    """The variance that β stands for in a recipe's loss, and β of SSE + KL on [0, 1] for it."""
    sigma2 = recipe.but(beta=float(beta)).sigma2
    return sigma2, 2 * sigma2


def critical_beta(recipe: Recipe, spectrum: Spectrum) -> float:
    """The β from which on a linear VAE spends nothing: its variance is the largest eigenvalue."""
    return (spectrum.eigenvalues[0] / recipe.but(beta=1.0).sigma2).item()


# ---- plots


def plot_training(curves: dict[str, dict], levels: dict[str, dict[str, float]], equal: int,
                  linear: Tensor):
    """Loss, squared error and KL by epoch, thin for training; and both together, over the linear
    curve (n, 2). Dotted: what the linear model of that β reaches."""
    figure, panels = new_figure(2, 2, width=9, height=4.4)
    loss, error, kl, plane = panels.flat
    for name, curve in curves.items():
        style, label = style_of(name), curve["label"]
        for axes, key in ((loss, "loss"), (error, "error"), (kl, "kl")):
            axes.plot(curve["epoch"], curve[key], color=style["color"], lw=0.8, alpha=0.6)
            axes.plot(curve["epoch"], curve[f"test_{key}"], **style, label=label)
            axes.axhline(levels[name][key], color=style["color"], ls=":", lw=1)
        plane.plot(curve["test_kl"], curve["test_error"], **style)
    for axes in (loss, error, kl):
        if any(curve["epoch"][-1] > equal for curve in curves.values()):
            axes.axvline(equal, color=GREY, lw=0.8, ls="-.")    # beyond it β = 1 is alone
        axes.set(xlabel="epoch")
    plane.plot(*linear.T, color=GREY, ls=":", label="best linear VAEs, test faces")
    loss.set(title="Loss, each with its own β", yscale="log", ylabel="4·SSE + β·KL")
    error.set(title="Squared error", yscale="log", ylabel="SSE on [0, 1], per face")
    kl.set(title="KL: what the code costs", ylabel="nats per face", ylim=(0, None))
    plane.set(title="Both, epoch by epoch", yscale="log", xlabel="KL, nats per face",
              ylabel="SSE on [0, 1], per face")
    for axes in (loss, error, plane):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_locator(NullLocator())
    loss.plot([], [], color=GREY, lw=0.8, label="thin: training")
    loss.plot([], [], ":", color=GREY, lw=1, label="the linear model's")
    loss.plot([], [], "-.", color=GREY, lw=0.8, label="end of equal epochs")
    loss.legend(fontsize=8)
    plane.legend(fontsize=8)
    return figure


# ---- the chapter


class Chapter:
    """The β-VAE of an earlier submission: three weights of the KL, faces at 128×128."""

    def __init__(self, lab: Lab, scale):
        self.lab, self.scale = lab, scale
        self.recipe = RECIPES["celeba128"]
        self.seed = lab.settings.seed

    # ---- what several cells need

    @cached_property
    def faces(self) -> Splits:
        return self.lab.splits(self.recipe)

    @cached_property
    def spectrum(self) -> Spectrum:
        """The training faces' largest eigenvalues, as many as there are latent dimensions."""
        return pca.spectrum(self.faces.train.images, self.recipe.latent)

    @cached_property
    def scores(self) -> Scores:
        """The test faces on the training faces' axes."""
        return scores_of(self.spectrum, self.faces.test.images)

    def foretold(self, beta: float) -> Foretold:
        """The linear optimum for β, and what it does on test faces."""
        sigma2, _ = at_equal_variance(self.recipe, beta)
        best = pca.linear_optimum(self.spectrum, sigma2, self.recipe.latent)
        return Foretold(best, *linear_on(self.spectrum, self.scores, sigma2, self.recipe.latent))

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The trainings that are there, by their key."""
        found = {key: self.lab.optional(label) for key, label in RUNS.items()}
        return {key: run for key, run in found.items() if run is not None}

    @cached_property
    def names(self) -> dict[str, str]:
        """What tables call each training, whether it is there or not."""
        return {key: name_of(self.lab.wanted[label], self.seed) for key, label in RUNS.items()}

    @cached_property
    def codes(self) -> dict[str, tuple[Tensor, Tensor]]:
        """mu and logvar of the test faces, by each model."""
        return {key: encode_set(run.model, self.faces.test.images)
                for key, run in self.runs.items()}

    @cached_property
    def kl(self) -> dict[str, Tensor]:
        """KL of every dimension (d,), by each model."""
        return {key: kl_divergence(*codes).double().mean(0) for key, codes in self.codes.items()}

    @cached_property
    def live(self) -> dict[str, Tensor]:
        return {key: live(kl) for key, kl in self.kl.items()}

    def _decoded(self, key: str, n: int) -> Tensor:
        """A model's reconstructions of the first n test faces."""
        return decode_set(self.runs[key].model, self.codes[key][0][:n])

    @cached_property
    def sharpness(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Sharpness of the reconstructions of the first test faces, and of these faces: as they
        are, and halved in size, which leaves out the finest grain."""
        images = self.faces.test.images[:200]
        shown = {"faces": as_pixels(images)} | {
            key: self._decoded(key, len(images)) for key in self.runs}
        return {key: (samples.sharpness(x), samples.sharpness(F.avg_pool2d(x, 2)))
                for key, x in shown.items()}

    def _keep(self, what: str, key: str, value, unit: str = "", note: str = "") -> float | None:
        """Keeps a number of one training."""
        return self.lab.found.keep(f"betas.{what}_{key}", value, unit, self.runs[key], note)

    @cached_property
    def linear(self) -> Tensor:
        """KL and squared error of linear models on test faces, by rising β, (n, 2)."""
        return torch.tensor([self.foretold(beta)[1:] for beta in LINEAR_BETAS])

    def _missing(self) -> Table:
        return self.lab.absent(*RUNS.values())

    # ---- foretold

    def prediction(self) -> Table:
        """What the spectrum foretells for each β, before any training."""
        found, rows, half = self.lab.found, [], self.scale.faces.spectrum
        for beta in (*BETAS, critical_beta(self.recipe, self.spectrum)):
            here, (sigma2, equal) = self.foretold(beta), at_equal_variance(self.recipe, beta)
            best = here.best
            rows.append({
                "β": beta, "σ²": sigma2, "β of SSE + KL on [0, 1]": equal, "KL": best.rate,
                "squared error": best.distortion, "degrees of freedom": best.dof,
                "active": best.active, "KL, test": here.test_rate,
                "squared error, test": here.test_error,
                "KL, from 64×64": predicted(half, beta, self.recipe.latent).rate})
            if beta in BETAS:
                for what, value, unit in (
                        ("", best.active, "directions"), ("_rate", best.rate, "nats"),
                        ("_dof", best.dof, "directions"), ("_sse", best.distortion, "on [0, 1]"),
                        ("_test_rate", here.test_rate, "nats"),
                        ("_test_sse", here.test_error, "on [0, 1]")):
                    found.add(f"betas.predicted{what}_{beta}", value, unit, note="linear, closed "
                              "form, at 128×128, of 128")
        found.add("betas.predicted_collapse", rows[-1]["β"], note="β from which KL is 0, linear")
        found.keep("betas.lambda_ratio", self.spectrum.eigenvalues[0] / half.eigenvalues[0],
                   note="first eigenvalue, 128×128 over 64×64")
        return Table(rows, {"β": ",.0f", "σ²": ",.3f", "β of SSE + KL on [0, 1]": ",.2f",
                            "KL": ".0f", "squared error": ",.0f", "degrees of freedom": ".0f",
                            "KL, test": ".0f", "squared error, test": ",.0f",
                            "KL, from 64×64": ".0f"})

    # ---- what came of it

    def outcomes(self) -> Table:
        """Each training beside the linear model of its β, on test faces."""
        self.prediction()                               # the finding that came first
        if not self.runs:
            return self._missing()
        rows = [self._outcome(key) for key in RUNS]
        found, share = self.lab.found, "of 10 against 1 with 5 and 10 epochs"
        sse = {key: found.get(f"betas.sse_{key}") for key in RUNS}
        if None not in (sse["1"], sse["1_long"], sse["10"]) and sse["10"] != sse["1_long"]:
            found.keep("betas.share_of_epochs",
                       (sse["1"] - sse["1_long"]) / (sse["10"] - sse["1_long"]), note=share)
        if all(key in self.runs for key in EQUAL):
            gaps = [abs(found[f"betas.rate_gap_{key}"]) for key in EQUAL]
            found.keep("betas.rate_gap", max(gaps), note="the largest, at equal epochs")
            found.keep("betas.least_active", min(found[f"betas.active_{key}"] for key in EQUAL))
            for what in ("rate", "moved"):
                found.keep(f"betas.least_{what}",
                           min(found[f"betas.{what}_{key}"] for key in self.runs))
        return Table(rows, {
            "KL": ".1f", "KL, linear": ".1f", "squared error": ".1f",
            "squared error, linear": ".1f", "loss": ",.0f", "loss, linear": ",.0f",
            "degrees of freedom": ".1f", "dof, linear": ".1f", "sharpness kept": ".1%",
            "… at half size": ".1%"}, unshown=("loss", "loss, linear", "active, linear"))

    def _outcome(self, key: str) -> dict:
        """A row of numbers, or of gaps."""
        row = dict.fromkeys(("model", "KL", "KL, linear", "squared error", "squared error, linear",
                             "loss", "loss, linear", "degrees of freedom", "dof, linear", "active",
                             "active, linear", "sharpness kept", "… at half size"))
        if key not in self.runs:
            return row | {"model": f"{self.names[key]}: not trained here"}
        run, sharp = self.runs[key], self.sharpness
        here, a = self.foretold(run.recipe.beta), run.recipe.sse_weight
        rate, error = run.chosen["test_kl"], run.chosen["test_reconstruction"] / a
        dof, active = latent.degrees_of_freedom(self.codes[key][1]), len(self.live[key])
        kept, halved = (ratio_of_means(*pair) for pair in zip(sharp[key], sharp["faces"],
                                                              strict=True))
        for what, value, unit in (
                ("rate", rate, "nats"), ("sse", error, "on [0, 1]"),
                ("loss", run.chosen["test_loss"], "as trained"), ("dof", dof, "directions"),
                ("active", active, "directions"), ("sharpness", kept[0], "of the faces'"),
                ("halved", halved[0], "of the faces', at half their size"),
                ("rate_gap", rate / here.test_rate - 1 if here.test_rate else None, "of linear"),
                ("sse_gap", error / here.test_error - 1, "of linear"),
                ("over_linear", self._over_linear(rate, error), "of linear, at its own KL"),
                ("moved", largest_move(run.model, self.codes[key][0], int(self.kl[key].argmax())),
                 "grey levels")):
            self._keep(what, key, value, unit, "test faces")
        if "1" in self.runs:
            for what, ours, first in zip(("sharper", "halved_sharper"), sharp[key], sharp["1"],
                                         strict=True):
                for suffix, value in zip(("", "_error"), ratio_of_means(ours, first), strict=True):
                    self._keep(what + suffix, key, value, "of β = 1's, the shorter run")
        loss = a * here.test_error + run.recipe.beta * here.test_rate
        return dict(zip(row, (self.names[key], rate, here.test_rate, error, here.test_error,
                              run.chosen["test_loss"], loss, dof, here.best.dof, active,
                              here.best.active, kept[0], halved[0]), strict=True))

    def _over_linear(self, rate: float, error: float) -> float | None:
        """A squared error over that of the linear model of the same KL, less 1."""
        rates, errors = self.linear.flip(0).T.numpy()               # rising KL
        if not rates[0] <= rate <= rates[-1]:
            return None
        return error / float(np.interp(rate, rates, errors)) - 1

    def curves(self) -> Figure | Table:
        """Loss, squared error and KL by epoch, and the plane of the last two."""
        keys = ["1_long" if "1_long" in self.runs else "1", "4", "10"]
        runs = {key: self.runs[key] for key in keys if key in self.runs}
        if not runs:
            return self._missing()
        curves, levels = {}, {}
        for key, run in runs.items():
            a, here = run.recipe.sse_weight, self.foretold(run.recipe.beta)
            curves[run.recipe.name] = {"label": self.names[key], "epoch": run.curve("epoch")} | {
                f"{part}{to}": [value / by for value in run.curve(f"{part}{what}")]
                for part in ("", "test_")
                for to, what, by in (("loss", "loss", 1), ("error", "reconstruction", a),
                                     ("kl", "kl", 1))}
            levels[run.recipe.name] = {
                "error": here.test_error, "kl": here.test_rate,
                "loss": a * here.test_error + run.recipe.beta * here.test_rate}
        self._settling()
        equal = min(len(run.history) for run in runs.values())
        return self.lab.figure(
            plot_training(curves, levels, equal, self.linear), "beta-curves", "Loss, squared error "
            "and KL by epoch for β = 1, 4 and 10, and the way of each through the plane of KL and "
            "squared error, beside the best linear models")

    def _settling(self) -> None:
        """How far KL and loss still move, of the training with most epochs."""
        run = self.runs.get("1_long") or self.runs.get("1")
        if run is None or len(run.history) < 2:
            return
        kl, loss = run.curve("test_kl"), run.curve("test_loss")
        at = len(kl) // 2 - 1
        self.lab.found.keep("betas.kl_drift", abs(kl[-1] - kl[at]) / kl[-1], run=run,
                            note="from half of the epochs to all")
        self.lab.found.keep("betas.last_gain", (loss[-2] - loss[-1]) / loss[-1], run=run,
                            note="of the test loss in the last epoch")

    # ---- pictures

    def _picture(self, rows: dict[str, Tensor], title: str, name: str, alt: str,
                 blocks: Sequence[str] = ()) -> Figure:
        """Rows of faces at their own size, their names at the left, in blocks under their names."""
        drawn = labelled_rows(rows, title, blocks, zoom=1, label=LABEL, blocks=len(blocks) or 1)
        return self.lab.figure(drawn, name, alt, picture=True)

    def reconstructions(self) -> Figure | Table:
        """The same eight test faces and what each model makes of them."""
        keys = [key for key in (*EQUAL, "1_long") if key in self.runs]
        if not keys:
            return self._missing()
        images = self.faces.test.images[:SHOWN]
        rows = {"test faces": images} | {
            self.names[key]: self._decoded(key, SHOWN) for key in keys}
        return self._picture(rows, "The same test faces through codes of three prices",
                             "beta-reconstructions", "Eight test faces, and below them their "
                             "reconstructions with β = 1, 4 and 10 after equal epochs, then with "
                             "β = 1 after all of its epochs")

    def interpolations(self) -> Figure | Table:
        """Four pairs of test faces, two beside each other, a row for each β."""
        keys = [key for key in EQUAL if key in self.runs]
        if not keys:
            return self._missing()
        self.paths()                                    # its numbers stand in the prose
        far = extremes(self.codes[keys[0]][0][:500])
        rows = {}
        for name, pairs in {"first faces": ((0, 1), (2, 3)),
                            "nearest codes, |\nfarthest codes": far.values()}.items():
            for key in keys:
                mu = self.codes[key][0]
                rows[f"{name},\nβ = {self.runs[key].recipe.beta:g}"] = decode_set(
                    self.runs[key].model,
                    torch.cat([lerp(mu[a], mu[b], SHOWN // 2) for a, b in pairs]))
        return self._picture(rows, "Between two faces: four pairs, four decoded steps each",
                             "beta-interpolations", "Four pairs of test faces, and for each β = 1, "
                             "4 and 10 a row of four decoded steps between them, which look alike",
                             blocks=("t = 0, ⅓, ⅔, 1",) * 2)

    def paths(self) -> Table:
        """How smooth the way between two faces is, in what does not shrink with contrast."""
        if not self.runs:
            return self._missing()
        rows = []
        for key in RUNS:
            row = dict.fromkeys(("model", "mean squared step, thousandths", "distance of the ends",
                                 "detour", "±", "evenness", "twice the steps, exponent",
                                 "sharpness half-way"))
            if key not in self.runs:
                rows.append(row | {"model": f"{self.names[key]}: not trained here"})
                continue
            numbers = numbers_between(self.runs[key].model, self.faces.test.images)
            for what, value in numbers.items():
                self._keep(what, key, value, note=f"{PAIRS} pairs of test faces, {STEPS} frames")
            rows.append(dict(zip(row, (self.names[key], *numbers.values()), strict=True)))
        return Table(rows, {"mean squared step, thousandths": ".3f", "distance of the ends": ",.0f",
                            "detour": ".3f", "±": ".3f", "evenness": ".2f",
                            "twice the steps, exponent": ".2f", "sharpness half-way": ".0%"})

    # ---- dimensions

    def dimensions(self) -> Figure | Table:
        """Dimensions 8, 25 and 68 as they were shown, and dimensions that are matched over β."""
        key = "1_long" if "1_long" in self.runs else "1"
        if key not in self.runs:
            return self._missing()
        half = SHOWN // 2
        left = {f"dim. {dim}, KL {self.kl[key][dim].item():.2f}": traverse(
            self.runs[key].model, self.codes[key][0][:1], dim, 3.0, half) for dim in DIMS}
        right = {label: traverse(self.runs[one].model, self.codes[one][0][:1], dim,
                                 3 * sign * self._spread(one, dim), half)
                 for label, (one, dim, sign) in self._chain().items()}
        rows = {f"{one} |\n{other}": torch.cat([left[one], right[other]])
                for one, other in zip(left, right, strict=True)} if right else left
        return self._picture(rows, "One test face, moved along single dimensions",
                             "beta-dimensions", "Left, traversals of dimensions 8, 25 and 68 with "
                             "β = 1, which change little but light; right, the dimension that is "
                             "best matched over β = 1, 4 and 10: from dark to bright in each",
                             ("8, 25 and 68 of β = 1", "one that is matched")[:1 + bool(right)])

    def _spread(self, key: str, dim: int) -> float:
        """The standard deviation of a dimension over all posteriors together."""
        mu, logvar = (codes[:, dim] for codes in self.codes[key])
        return (mu.var() + logvar.exp().mean()).sqrt().item()

    def _chain(self) -> dict[str, tuple[str, int, int]]:
        """Rows for the dimension of β = 1 whose partners with both other β are best: label, and
        model, dimension, and whether that falls (-1) as the first rises."""
        if not all(len(self.live.get(key, ())) for key in EQUAL):
            return {}
        partners = {}
        for key in EQUAL[1:]:
            found = match_live(self.codes["1"][0], self.codes[key][0], self.live["1"],
                               self.live[key])
            partners[key] = {i: (rho, j, sign) for (i, j), rho, sign in zip(
                *(values.tolist() for values in found), strict=True)}
        shared = [i for i in partners["4"] if i in partners["10"]]
        if not shared:
            return {}
        i = max(shared, key=lambda i: min(partner[i][0] for partner in partners.values()))
        rows = {f"dim. {i}, β = 1": ("1", i, 1)}
        for key, partner in partners.items():
            rho, j, sign = partner[i]
            rows[f"dim. {j}, β = {key},\n|ρ| = {rho:.2f} with {i}"] = key, j, sign
        return rows

    def matching(self) -> Table:
        """Whether dimensions of two models correspond, beside what shuffling and turning give."""
        if not self.runs:
            return self._missing()
        heads = {"rho": "|ρ|, matched", "chance": "99 % of chance", "above": "above it",
                 "turned": "|ρ|, axes turned", "same": "|ρ|, equal indices",
                 "read": "R², read linearly"}
        rows, found, none = [], self.lab.found, (None, None)
        for name, (one, other) in COMPARED.items():
            there = all(len(self.live.get(key, ())) for key in (one, other))
            numbers = self._correspondence(one, other) if there else dict.fromkeys(heads)
            for what, value in numbers.items():
                found.keep(f"match.{what}_{name}", value, note="live dimensions, test faces")
            own, other_axes = zip(*(self.factors.get(key, none) for key in (one, other)),
                                  strict=True)
            rows.append({"models": f"{WORDS[one]} | {WORDS[other]}"}
                        | {head: numbers[what] for what, head in heads.items()}
                        | {"one attribute's share": own if there else None,
                           "the same, axes turned": other_axes if there else None,
                           "note": self._note(one, other, name)})
        return Table(rows, dict.fromkeys(heads.values(), ".2f") | {"above it": ".0%"}
                     | dict.fromkeys(("one attribute's share", "the same, axes turned"), ".1%"),
                     unshown=(heads["chance"], heads["above"], *(
                         () if any(row["note"] for row in rows) else ("note",))))

    @cached_property
    def factors(self) -> dict[str, tuple[float | None, float | None]]:
        """How far each model's live dimensions tell one attribute each; and after turning them, a
        mean over turns."""
        found, labels = {}, self.faces.test.labels
        for key in (key for key, dims in self.live.items() if len(dims)):
            codes = self.codes[key][0][:, self.live[key]]
            turns = [one_factor(turned(codes, self.seed + k), labels) for k in range(TURNS)]
            mean = None if None in turns else sum(turns) / len(turns)
            found[key] = one_factor(codes, labels), mean
            self._keep("one_factor", key, found[key][0], note="largest of squared correlations")
            self._keep("one_factor_turned", key, mean, note="the same on axes turned at random")
        return found

    def _note(self, one: str, other: str, name: str) -> str:
        if not {one, other} <= self.runs.keys():
            return "not trained here"
        if not (len(self.live[one]) and len(self.live[other])):
            return "no live dimension"
        alone = name in ("1_4", "1_10", "4_10") and "1_seed1" not in self.runs
        return "without control, undecided" if alone else ""

    def _correspondence(self, one: str, other: str) -> dict[str, float | None]:
        return correspondence(self.codes[one][0], self.codes[other][0], self.live[one],
                              self.live[other], self.seed)


# ---- rows and lines


def name_of(job: Job, seed: int) -> str:
    """How tables call a training: its β, its epochs, and its seed if that is another one."""
    other = f", seed {job.seed - seed}" if job.seed != seed else ""
    return f"β = {job.recipe.beta:g}, {job.epochs} epochs{other}"


def numbers_between(model: VAE, images: Tensor) -> dict[str, float | None]:
    """The numbers of straight lines between the first images and the ones after those."""
    pairs = min(PAIRS, len(images) // 20)
    few = min(DOUBLED, pairs)
    codes, frames = paths_between(model, images, pairs)
    ends = torch.cat([images[:few], images[pairs:pairs + few]])
    _, twice = paths_between(model, ends, few, steps=2 * STEPS - 1)
    numbers = path_numbers(frames, codes)
    apart = (frames[:, 0] - frames[:, -1]).square().flatten(1).sum(1).mean()
    step = numbers["smoothness"]
    return {"step": None if step is None else 1000 * step, "apart": finite(apart),
            "detour": numbers["detour"], "detour_error": numbers["detour_error"],
            "evenness": numbers["evenness"], "doubling": doubling_exponent(frames[:few], twice),
            "sharpness_halfway": finite(middle(sharpness_along(frames)))}
