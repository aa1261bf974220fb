"""Known factors: whether single dimensions stand for what drawn faces were drawn from."""

from __future__ import annotations

import torch
from torch import Tensor

from lab import linear
from lab.factors import against_turned, dci, mig
from lab.latent import live
from lab.notebook import Lab, needs, once
from lab.recipes import RECIPES
from lab.show import Table
from lab.training import choose_device, encode_set, fresh
from vae_helpers import VAE, kl_divergence

NEEDED = {beta: f"factors-b{beta}" for beta in (1, 4, 16)}
FIRST = RECIPES[NEEDED[1]]                  # the others differ in β alone
MEASURES = {"MIG": (mig, 20), "DCI": (dci, 5)}      # and turns, for an error of a few percent
COLUMNS = {"": ("own", ".3f"), ", over turned axes": ("ratio", ".2f"), ", ±": ("error", ".2f")}
FORMATS = {name + end: spec for name in MEASURES for end, (_, spec) in COLUMNS.items()}
UNTRAINED = 32                              # of its dimensions, which are all alike


@needs(*NEEDED.values())
def table(lab: Lab) -> Table:
    """MIG and DCI of codes of drawn faces beside those of the same codes on turned axes: of
    trainings, of linear VAEs, and of a network before its first step."""
    rows = [row_of(lab, f"β = {beta}", live_codes(lab, lab.run(name).model))
            for beta, name in NEEDED.items()]
    for beta, row in zip(NEEDED, rows, strict=True):
        keep_ratios(lab, beta, row)
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


@once
def axes(lab: Lab) -> linear.Spectrum:
    """The training faces' principal axes, as many as there are latent dimensions."""
    return linear.spectrum(lab.splits(FIRST).train.images, FIRST.latent)


def linear_of(lab: Lab, beta: int) -> VAE:
    """The best linear VAE of the training faces, for the variance of this β."""
    recipe = RECIPES[NEEDED[beta]]
    return linear.linear_model(recipe.but(start_sigma2=recipe.sigma2), axes(lab))


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
            row |= {measure + end: getattr(score, part) for end, (part, _) in COLUMNS.items()}
    return row


def keep_ratios(lab: Lab, beta: int, row: dict) -> None:
    """Keeps how many times those on turned axes a training's scores are, and the errors."""
    for name in MEASURES:
        for part, end in ((", over turned axes", ""), (", ±", "_error")):
            lab.found.keep(f"factors.{name.lower()}_{beta}{end}", row[name + part],
                           "of that on turned axes", lab.run(NEEDED[beta]))
