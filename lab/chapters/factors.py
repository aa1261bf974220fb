"""Known factors: whether single dimensions stand for what drawn faces were drawn from."""

import torch
from torch import Tensor

from lab.chapters.scale import principal_axes
from lab.factors import against_turned, dci, mig
from lab.latent import live
from lab.linear import linear_model
from lab.notebook import Lab, needs, once
from lab.recipes import RECIPES
from lab.show import Table
from lab.training import choose_device, encode_set, fresh
from vae_helpers import VAE, kl_divergence

NEEDED = {beta: f"factors-b{beta}" for beta in (1, 4, 16)}
FIRST = RECIPES[NEEDED[1]]                  # the others differ in β alone
MEASURES = {"MIG": (mig, 20), "DCI": (dci, 5)}      # and turns, for an error of a few percent
RATIO, ERROR = ", over turned axes", ", ±"
FORMATS = {"MIG": ".3f", "MIG" + RATIO: ".2f", "MIG" + ERROR: ".2f",
           "DCI": ".3f", "DCI" + RATIO: ".2f", "DCI" + ERROR: ".2f"}
UNTRAINED = 32                              # of its dimensions, which are all alike


@needs(*NEEDED.values())
def table(lab: Lab) -> Table:
    """MIG and DCI of codes of drawn faces beside those of the same codes on turned axes: of
    trainings, of linear VAEs, and of a network before its first step."""
    rows = [row_of(lab, f"β = {beta}", live_codes(lab, lab.run(name).model))
            for beta, name in NEEDED.items()]
    for (beta, training), row in zip(NEEDED.items(), rows, strict=True):
        for name in MEASURES:
            for part, end in ((RATIO, ""), (ERROR, "_error")):
                lab.found.keep(f"factors.{name.lower()}_{beta}{end}", row[name + part],
                               "of that on turned axes", lab.run(training))
    rows += [row_of(lab, f"linear VAE, β = {beta}", live_codes(lab, linear_of(lab, beta)))
             for beta in NEEDED]
    images, factors = unseen(lab)
    blank = fresh(FIRST, choose_device(lab.settings.device), lab.settings.seed).eval()
    rows.append(row_of(lab, "untrained network", encode_set(blank, images)[0][:, :UNTRAINED]))
    return Table(rows, FORMATS, f"{len(images):,} drawn faces of {factors.shape[1]} factors")


@once
def unseen(lab: Lab) -> tuple[Tensor, Tensor]:
    """The drawn faces that nothing is trained on or chosen by, held-out and test ones, as bytes,
    and their factors (N, F)."""
    _, *parts = lab.splits(FIRST)
    columns = [torch.cat([part.factors[name] for part in parts]) for name in parts[0].factors]
    return torch.cat([part.images for part in parts]), torch.stack(columns, 1)


def linear_of(lab: Lab, beta: int) -> VAE:
    """The best linear VAE of the training faces, for the variance of this β."""
    recipe = RECIPES[NEEDED[beta]]
    known = principal_axes(lab, FIRST.name, FIRST.latent)
    return linear_model(recipe.but(start_sigma2=recipe.sigma2), known)


def live_codes(lab: Lab, model: VAE) -> Tensor:
    """The means of a model's codes of these faces, of its live dimensions (N, d)."""
    mu, logvar = encode_set(model, unseen(lab)[0])
    return mu[:, live(kl_divergence(mu, logvar))]


def row_of(lab: Lab, name: str, codes: Tensor) -> dict:
    """A row of the table, with gaps where no dimension is live."""
    row = {"codes of": name, "dimensions": codes.shape[1]} | dict.fromkeys(FORMATS)
    for measure, (function, full) in MEASURES.items():
        turns = 2 if lab.settings.shortened else full
        if codes.shape[1]:
            score = against_turned(function, codes, unseen(lab)[1], lab.settings.seed, turns)
            row |= {measure: score.own, measure + RATIO: score.ratio, measure + ERROR: score.error}
    return row

