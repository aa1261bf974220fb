"""Where β costs so much that a code is worth nothing: CIFAR-10 around the critical β."""

from __future__ import annotations

import torch
from torch import Tensor

from lab.chapters import betas
from lab.chapters.scale import scale
from lab.latent import main_direction
from lab.linear import Spectrum, linear_optimum
from lab.notebook import Lab, needs, once
from lab.show import Figure
from vae_helpers import GREY, kl_divergence, new_figure

RANDOM = ("05", "09", "11", "20")               # β over the critical one, in tenths
ALIGNED = ("05_aligned", "09_aligned")          # from the linear optimum, whose axes are right
SHARE, UNALIGNED = "β over the critical", "KL, one direction over all axes"
NEEDED = [f"collapse-{key.replace('_', '-')}" for key in RANDOM + ALIGNED]


def unaligned_kl(ratio: Tensor | float) -> Tensor:
    """The KL of one direction whose code is spread evenly over very many axes, at λ / σ²."""
    return 0.5 * (torch.as_tensor(ratio).sqrt() - 1).clamp(min=0)


@once
def collapsed(lab: Lab, key: str) -> dict:
    """What is left of the code of a training around the critical β, on the test images."""
    run, known = lab.run(f"collapse-{key.replace('_', '-')}"), scale(lab, "cifar").spectrum
    mu, logvar = lab.codes(run)
    share = run.recipe.beta / betas.critical_beta(run.recipe, known)
    along, over = main_direction(mu)
    return {SHARE: share, "start": "aligned" if key in ALIGNED else "random",
            "KL": kl_divergence(mu, logvar).sum(1).mean().item(),
            "KL, linear": linear_optimum(known, run.recipe.sigma2, run.recipe.latent).rate,
            UNALIGNED: unaligned_kl(1 / share).item(),
            "variance along one direction": along, "axes it spreads": over}


def keep_rows(lab: Lab, rows: dict[str, dict]) -> None:
    """Keeps what text and claims quote of these trainings."""
    keep, half = lab.found.keep, rows["05"]
    for (key, row), name in zip(rows.items(), NEEDED, strict=True):
        keep(f"collapse.kl_{key}", row["KL"], "nats", lab.run(name))
    keep("collapse.linear_kl_05", half["KL, linear"], "nats")
    keep("collapse.linear_kl_09", rows["09"]["KL, linear"], "nats")
    keep("collapse.unaligned_05", half[UNALIGNED], "nats")
    keep("collapse.variance_05", half["variance along one direction"],
         "of the codes' variance, along one direction")
    keep("collapse.axes_05", half["axes it spreads"], "axes that this direction spreads over")
    keep("collapse.critical", betas.critical_beta(lab.run("collapse-05").recipe,
                                                  scale(lab, "cifar").spectrum))


@needs(*NEEDED)
def figure(lab: Lab) -> Figure:
    """What CIFAR-10's codes hold below and above the critical β, from random and aligned starts,
    over two closed forms."""
    rows = {key: collapsed(lab, key) for key in RANDOM + ALIGNED}
    keep_rows(lab, rows)
    drawn = plot_collapse(scale(lab, "cifar").spectrum,
                          {"random start": [rows[key] for key in RANDOM],
                           "aligned start": [rows[key] for key in ALIGNED]})
    return lab.figure(drawn, "collapse", "KL of CIFAR-10's codes falls to 0 as β nears the "
                      "critical one, with the lines of a linear model and of one direction that "
                      "spreads over all axes")


def plot_collapse(known: Spectrum, groups: dict[str, list[dict]]):
    """Total KL against β over the critical one: points by start over the two closed forms."""
    figure, panel = new_figure(width=7, height=3)
    shares = torch.linspace(0.4, 2.1, 171).double()
    rates = [linear_optimum(known, float(known.eigenvalues[0] * share)).rate for share in shares]
    panel.plot(shares, rates, color=GREY, label="linear optimum: aligned")
    panel.plot(shares, unaligned_kl(1 / shares), "--", color=GREY,
               label="one direction, spread over all axes")
    for (label, rows), marker in zip(groups.items(), ("o", "^"), strict=True):
        panel.plot([row[SHARE] for row in rows], [row["KL"] for row in rows], marker,
                   color="#D55E00" if marker == "o" else "#0072B2", label=label)
    panel.set(title="CIFAR-10: what is spent around the critical β", ylabel="KL, nats per image",
              xlabel="β over the critical one")
    panel.legend(fontsize=8)
    return figure
