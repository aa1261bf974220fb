"""The theory points of the β-VAE submission, each with a number: collapse, sizes, ranges."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from lab import linear
from lab.chapters.betas import EQUAL, critical_beta
from lab.chapters.faces import cost_of_fewer
from lab.latent import largest_move, linear_move, stretch
from lab.linear import Spectrum
from lab.recipes import RECIPES
from lab.runs import Run
from lab.session import Lab
from lab.show import Figure, Table
from lab.training import encode_set
from vae_helpers import GREY, kl_divergence, new_figure, style_of

COLLAPSES = {"05": "fc", "09": "b4", "11": "conv", "20": "b10"}     # and how each is drawn
FACES = dict(zip(EQUAL, ("celeba128", "b4", "b10"), strict=True))
FIRST = 32              # dimensions of CIFAR-10's models that the figure shows


def ranked(run: Run, kl: Tensor, spectrum: Spectrum, style: str, top: int | None = None) -> dict:
    """A model's KL by rank beside that of the linear optimum, and how it is drawn."""
    best = linear.linear_optimum(spectrum, run.recipe.sigma2, run.recipe.latent)
    return {"kl": kl.sort(descending=True).values[:top], "style": style_of(style),
            "linear": -0.5 * best.variances.log()}


def plot_ranks(panels: dict[str, dict[str, dict]]):
    """KL by rank of the dimension, a panel for each title; dotted the linear model's."""
    figure, axes = new_figure(len(panels), width=9, height=3.1)
    places = (0.5, 0.29), (0.02, 0.02)                              # of the legends, off the lines
    for ax, place, (title, lines) in zip([axes] if len(panels) == 1 else axes, places,
                                         panels.items(), strict=False):
        for label, line in lines.items():
            colour, dash = line["style"]["color"], line["style"]["ls"]
            few = "x" if len(line["linear"]) < 3 else None
            ax.plot(range(1, len(line["kl"]) + 1), line["kl"], color=colour, ls=dash, label=label)
            ax.plot(range(1, len(line["linear"]) + 1), line["linear"], ":", color=colour,
                    marker=few, lw=1)
        ax.plot([], [], ":", color=GREY, marker="x" if few else None, label="linear, ½ ln(λ/σ²)")
        ax.set(title=title, xlabel="dimension, by rank", ylabel="KL, nats", yscale="log")
        ax.legend(fontsize=7.5, loc=place)
    return figure


class Chapter:
    """Latent size, KL against reconstruction, preprocessing, collapse, manipulation."""

    def __init__(self, lab: Lab, scale, betas):
        self.lab, self.scale, self.betas = lab, scale, betas

    @cached_property
    def collapsed(self) -> dict[str, tuple[Run, Tensor, Tensor]]:
        """The trainings about the critical β of CIFAR-10: run, mu and KL of each dimension."""
        found = {}
        for key in COLLAPSES:
            run = self.lab.optional(f"collapse-{key}")
            if run is not None:
                mu, logvar = encode_set(run.model, self.lab.cifar.test.images[:2000])
                found[key] = run, mu, kl_divergence(mu, logvar).double().mean(0)
        return found

    def _share(self, run: Run) -> float:
        """A training's β over the critical one."""
        return run.recipe.beta / critical_beta(run.recipe, self.scale.cifar.spectrum)

    def collapse(self) -> Table:
        """CIFAR-10 below and above the β from which on a linear model spends nothing."""
        if not self.collapsed:
            return self.lab.absent(*(f"collapse-{key}" for key in COLLAPSES))
        spectrum, found, rows = self.scale.cifar.spectrum, self.lab.found, []
        for key, (run, mu, kl) in self.collapsed.items():
            best = linear.linear_optimum(spectrum, run.recipe.sigma2, run.recipe.latent)
            first = -0.5 * best.variances.log()         # descending, none where all is collapsed
            moved = largest_move(run.model, mu, int(kl.argmax()))
            rows.append({
                "β": run.recipe.beta, "of the critical": self._share(run), "KL": kl.sum().item(),
                "KL, linear": best.rate, "largest of a dimension": kl.max().item(),
                "the same, linear": first[:1].sum().item(), "largest move": moved,
                "largest move, linear": linear_move(spectrum, run.recipe.sigma2)})
            for what, value, unit in (
                    ("kl", kl.sum(), "nats"), ("linear_kl", best.rate, "nats"),
                    ("largest", kl.max(), "nats"), ("moved", moved, "grey levels")):
                found.keep(f"collapse.{what}_{key}", value, unit, run, "CIFAR-10, test")
        found.keep("collapse.critical", critical_beta(run.recipe, spectrum), note="linear")
        nats = ("KL", "KL, linear", "largest of a dimension", "the same, linear")
        return Table(rows, {"β": ".1f", "of the critical": ".2f"} | dict.fromkeys(nats, ".4f")
                     | dict.fromkeys(("largest move", "largest move, linear"), ".1f"))

    def ranks(self) -> Figure | Table:
        """KL of each dimension by rank, with the linear model's ½ ln(λ/σ²)."""
        self.collapse(), self.sizes()                   # their numbers stand in the prose
        betas, cifar = self.betas, self.scale.cifar.spectrum
        small = {f"β = {self._share(run):.1f} of the critical": ranked(
            run, kl, cifar, COLLAPSES[key], FIRST) for key, (run, _, kl) in self.collapsed.items()}
        large = {betas.names[key]: ranked(betas.runs[key], betas.kl[key], betas.spectrum, style)
                 for key, style in FACES.items() if key in betas.runs}
        panels = {f"CIFAR-10, first {FIRST} dimensions": small, "Faces at 128×128": large}
        panels = {title: lines for title, lines in panels.items() if lines}
        if not panels:
            return self.lab.absent(*(f"collapse-{key}" for key in COLLAPSES))
        return self.lab.figure(plot_ranks(panels), "collapse", "KL of each dimension by rank, for "
                               "CIFAR-10 below and above the critical β and for faces with β = 1, "
                               "4 and 10, beside that of the linear model")

    def sizes(self) -> Table:
        """Each theory point of the earlier submission with one number of this run."""
        found, rows = self.lab.found, []
        self._size(), self._range()
        lines = (
            ("latent size", "test nats that 128 instead of 256 dimensions cost, faces at 64×64",
             "faces.d128_costs", "linear, closed form", "faces.cost_of_128"),
            ("KL against reconstruction", "squared error that β = 10 adds to β = 1, equal epochs",
             "betas.sse_added", "linear, test faces", "betas.predicted_sse_added"),
            ("preprocessing", "nats of the floor that cropping faces at 64×64 costs",
             "faces.crop_costs", "", ""),
            ("preprocessing", "squared error on [−1, 1] over that on [0, 1], same decodings",
             "betas.stretch", "by algebra, and so β as well", "betas.stretch_known"),
            ("collapse", "least KL of a model at 128×128", "betas.least_rate",
             "the linear model's with β = 10", "betas.predicted_test_rate_10"),
            ("manipulation", "mean AUC of probes of the code, faces at 64×64",
             "probes.auc_mean", "of as many PCA scores", "probes.pca_auc_mean"))
        for point, what, name, beside, other in lines:
            rows.append({"point": point, "what is measured": what, "here": found.get(name),
                         "beside it": found.get(other), "what that is": beside})
        return Table(rows, {"here": ",.4g", "beside it": ",.4g"})

    def _size(self) -> None:
        """What half of the latent dimensions costs, measured and in closed form."""
        found, recipe = self.lab.found, RECIPES["celeba64"]
        cost = cost_of_fewer(self.scale.faces.spectrum, recipe.sigma2, 128, recipe.latent)
        found.keep("faces.cost_of_128", cost, "nats", note=f"of a linear model of {recipe.latent}")
        fewer = self.lab.optional("celeba64-d128")
        if fewer is not None:
            costs = fewer.chosen["test_loss"] - self.lab.train("celeba64").chosen["test_loss"]
            found.keep("faces.d128_costs", costs, "nats", fewer, "test loss")

    def _range(self) -> None:
        """What β adds to the squared error, and what the range of the pixels does to it."""
        found, runs = self.lab.found, self.betas.runs
        for kind in ("", "predicted_test_"):
            ends = [found.get(f"betas.{kind}sse_{beta}") for beta in (1, 10)]
            if None not in ends:
                found.keep("betas.sse_added" if not kind else "betas.predicted_sse_added",
                           ends[1] - ends[0], "on [0, 1]", note="β = 10 over β = 1, equal epochs")
        if "1" in runs:
            images = self.betas.faces.test.images[:100]
            found.keep("betas.stretch", stretch(runs["1"].model, images), run=runs["1"])
        found.add("betas.stretch_known", 4.0, note="2², as [−1, 1] is twice as wide")
