"""Where β costs so much that a code is worth nothing: CIFAR-10 around the critical β."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lab.chapters.betas import (
    EQUAL,
    axes,
    critical_beta,
    name_of,
    nats_by_dimension,
    runs,
    trained,
)
from lab.chapters.scale import scale
from lab.latent import main_direction
from lab.linear import Spectrum, linear_optimum
from lab.notebook import Lab, needs, once
from lab.show import Figure, Table
from vae_helpers import GREY, kl_divergence, new_figure, style_of

RANDOM = ("05", "09", "11", "20")               # β over the critical one, in tenths
ALIGNED = ("05_aligned", "09_aligned")          # from the linear optimum, whose axes are right
NEEDED = [f"collapse-{key.replace('_', '-')}" for key in RANDOM + ALIGNED]


def unaligned_kl(ratio: Tensor | float) -> Tensor:
    """The KL of one direction whose code is spread evenly over very many axes, at λ / σ²."""
    return 0.5 * (torch.as_tensor(ratio).sqrt() - 1).clamp(min=0)


class Collapsed(NamedTuple):
    """What is left of the code of a training around the critical β."""

    share: float        # β over the critical one
    kl: float           # nats of a test image
    linear: float       # those of the linear optimum
    variance: float     # the part of the codes' variance that is along one direction
    over: float         # so many axes of the code that direction spreads


@once
def collapsed(lab: Lab, key: str) -> Collapsed:
    """One of these trainings, on the test images."""
    run, known = lab.run(f"collapse-{key.replace('_', '-')}"), scale(lab, "cifar").spectrum
    mu, logvar = lab.codes(run)
    best = linear_optimum(known, run.recipe.sigma2, run.recipe.latent)
    return Collapsed(run.recipe.beta / critical_beta(run.recipe, known),
                     kl_divergence(mu, logvar).sum(1).mean().item(), best.rate,
                     *main_direction(mu))


@needs(*NEEDED)
def table(lab: Lab) -> Table:
    """What CIFAR-10's codes hold below and above the critical β, from random and aligned starts."""
    keep, rows = lab.found.keep, []
    for key in RANDOM + ALIGNED:
        found = collapsed(lab, key)
        keep(f"collapse.kl_{key}", found.kl, "nats", lab.run(NEEDED[len(rows)]), "CIFAR-10, test")
        rows.append({"β over the critical": found.share,
                     "start": "aligned" if key in ALIGNED else "random", "KL": found.kl,
                     "KL, linear": found.linear,
                     "KL, one direction over all axes": unaligned_kl(1 / found.share).item(),
                     "variance along one direction": found.variance, "axes it spreads": found.over})
    half = collapsed(lab, "05")
    keep("collapse.linear_kl_05", half.linear, "nats", note="½ ln 2, closed form")
    keep("collapse.linear_kl_09", collapsed(lab, "09").linear, "nats", note="closed form")
    keep("collapse.unaligned_05", unaligned_kl(1 / half.share), "nats", note="closed form")
    keep("collapse.variance_05", half.variance, "of the codes' variance, along one direction")
    keep("collapse.axes_05", half.over, "axes that this direction spreads over")
    keep("collapse.critical", critical_beta(lab.run("collapse-05").recipe,
                                            scale(lab, "cifar").spectrum), note="closed form")
    return Table(rows, {"β over the critical": ".1f", "variance along one direction": ".0%",
                        "axes it spreads": ".0f"}
                 | dict.fromkeys(("KL", "KL, linear", "KL, one direction over all axes"), ".3f"))


@trained
@needs(*NEEDED)
def figure(lab: Lab) -> Figure:
    """Left, KL against β around the critical one; right, the KL of every dimension of faces."""
    drawn, (left, right) = new_figure(2, width=9, height=3.4)
    plot_collapse(left, scale(lab, "cifar").spectrum,
                  {"random start": [collapsed(lab, key) for key in RANDOM],
                   "aligned start": [collapsed(lab, key) for key in ALIGNED]})
    known = axes(lab)[0]
    for key, style in zip(EQUAL, ("celeba128", "b4", "b10"), strict=True):
        run = runs(lab)[key]
        best = linear_optimum(known, run.recipe.sigma2, run.recipe.latent)
        plot_ranks(right, nats_by_dimension(lab, key), -0.5 * best.variances.log(),
                   name_of(lab, key), style_of(style))
    right.set(title="Faces at 128×128, by dimension", xlabel="dimension, by rank",
              ylabel="KL, nats", yscale="log")
    right.plot([], [], ":", color=GREY, label="linear, ½ ln(λ/σ²)")
    right.legend(fontsize=8)
    return lab.figure(drawn, "collapse", "Left, KL of CIFAR-10's codes falls to 0 as β nears the "
                      "critical one, with the lines of a linear model and of one direction that "
                      "spreads over all axes; right, the KL of each dimension of faces by rank for "
                      "β = 1, 4 and 10, which falls below the linear model's where little is spent")


def plot_collapse(panel, known: Spectrum, groups: dict[str, list[Collapsed]]):
    """Total KL against β over the critical one: points by start over the two closed forms."""
    shares = torch.linspace(0.4, 2.1, 171).double()
    rates = [linear_optimum(known, float(known.eigenvalues[0] * share)).rate for share in shares]
    panel.plot(shares, rates, color=GREY, label="linear optimum: aligned")
    panel.plot(shares, unaligned_kl(1 / shares), "--", color=GREY,
               label="one direction, spread over all axes")
    for (label, points), marker in zip(groups.items(), ("o", "^"), strict=True):
        panel.plot([point.share for point in points], [point.kl for point in points], marker,
                   color="#D55E00" if marker == "o" else "#0072B2", label=label)
    panel.set(title="CIFAR-10: what is spent around the critical β", ylabel="KL, nats per image",
              xlabel="β over the critical one")
    panel.legend(fontsize=8)


def plot_ranks(panel, nats: Tensor, linear: Tensor, label: str, style: dict):
    """The KL of every dimension by rank; dotted the linear model's."""
    panel.plot(range(1, len(nats) + 1), nats.sort(descending=True).values, color=style["color"],
               ls=style["ls"], label=label)
    panel.plot(range(1, len(linear) + 1), linear, ":", color=style["color"], lw=1)
