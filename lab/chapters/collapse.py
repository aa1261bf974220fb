"""Where β costs so much that a code is worth nothing: CIFAR-10 around the critical β."""

import torch
from torch import Tensor

from lab.chapters.cifar import key_of
from lab.chapters.scale import scale
from lab.latent import main_direction
from lab.linear import Spectrum, critical_betas, linear_optimum
from lab.notebook import Lab, needs, once
from lab.show import Figure
from vae_helpers import GREY, kl_divergence, new_figure

# The trainings, named by β over the critical one, in tenths.
RANDOM = ("collapse-05", "collapse-09", "collapse-11", "collapse-20")
ALIGNED = ("collapse-05-aligned", "collapse-09-aligned")    # from the linear optimum's axes
SHARE, UNALIGNED = "β over the critical", "KL, one direction over all axes"


def unaligned_kl(ratio: Tensor | float) -> Tensor:
    """The KL of one direction whose code is spread evenly over very many axes, at λ / σ²."""
    return 0.5 * (torch.as_tensor(ratio).sqrt() - 1).clamp(min=0)


@once
def collapsed(lab: Lab, name: str) -> dict:
    """What is left of the code of a training around the critical β, on the test images."""
    run, known = lab.run(name), scale(lab, "cifar").spectrum
    mu, logvar = lab.codes(run)
    critical = critical_betas(known, run.recipe)[0].item()
    share = run.recipe.beta / critical
    along, over = main_direction(mu)
    return {SHARE: share, "critical": critical,
            "KL": kl_divergence(mu, logvar).sum(1).mean().item(),
            "KL, linear": linear_optimum(known, run.recipe.sigma2, run.recipe.latent).rate,
            UNALIGNED: unaligned_kl(1 / share).item(),
            "variance along one direction": along, "axes it spreads": over}


@needs(*RANDOM, *ALIGNED)
def figure(lab: Lab) -> Figure:
    """What CIFAR-10's codes hold below and above the critical β, from random and aligned starts,
    over two closed forms."""
    keep, rows = lab.found.keep, {name: collapsed(lab, name) for name in RANDOM + ALIGNED}
    for name, row in rows.items():
        key = key_of(name).removeprefix("collapse_")
        keep(f"collapse.kl_{key}", row["KL"], "nats", lab.run(name))
    half = rows["collapse-05"]
    keep("collapse.linear_kl_05", half["KL, linear"], "nats")
    keep("collapse.linear_kl_09", rows["collapse-09"]["KL, linear"], "nats")
    keep("collapse.unaligned_05", half[UNALIGNED], "nats")
    keep("collapse.variance_05", half["variance along one direction"],
         "of the codes' variance, along one direction")
    keep("collapse.axes_05", half["axes it spreads"], "axes that this direction spreads over")
    keep("collapse.critical", half["critical"])
    drawn = plot_collapse(scale(lab, "cifar").spectrum,
                          {"random start": [rows[name] for name in RANDOM],
                           "aligned start": [rows[name] for name in ALIGNED]})
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
