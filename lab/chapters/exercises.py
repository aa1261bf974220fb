"""Predict, then run: questions about CIFAR-10 whose answers a reader can work out before."""

from __future__ import annotations

from lab.chapters.scale import scale
from lab.linear import linear_optimum
from lab.notebook import Lab
from lab.recipes import RECIPES
from lab.show import Table
from lab.training import evaluate, summary


def answer(question: str, guess: float | None, true: float, unit: str) -> Table:
    """The reader's number beside the true one, which waits for it."""
    told = guess is not None
    return Table([{"question": question, "your guess": guess if told else "make one",
                   "true value": true if told else None, "unit": unit,
                   "off by": guess - true if told else None}],
                 {"your guess": ",.4g", "true value": ",.4g", "off by": "+,.3g"})


def directions(lab: Lab, beta: float = 4.0, guess: float | None = None) -> Table:
    """How many directions the best linear VAE keeps at a weight of the KL."""
    sigma2 = RECIPES["p1-conv"].but(beta=beta).sigma2
    return answer(f"squared error + {beta:g} KL: what the best linear VAE keeps of 3,072", guess,
                  linear_optimum(scale(lab, "cifar").spectrum, sigma2).active, "directions")


def latent(lab: Lab, size: int = 16, guess: float | None = None) -> Table:
    """What a smaller latent space costs the best linear VAE with squared error."""
    recipe, known = RECIPES["p1-conv"], scale(lab, "cifar").spectrum
    small, large = (linear_optimum(known, recipe.sigma2, n).loss() for n in (size, recipe.latent))
    return answer(f"squared error: what {size} instead of {recipe.latent} dimensions cost it",
                  guess, small - large, "nats")


def permuted(lab: Lab, name: str = "conv", guess: float | None = None) -> Table:
    """What permuting the pixels of the test images alone does to a trained model."""
    run = lab.run(name)
    there, moved = (summary(run.recipe, evaluate(run.model, splits.test.images[:2000],
                                                 seed=lab.settings.seed))["loss"]
                    for splits in (lab.cifar, lab.permuted))
    return answer(f"what permuted pixels in the test images alone cost {name}", guess,
                  moved - there, "nats")
