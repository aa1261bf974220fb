"""Predict, then run: three questions whose answers a reader can work out before they are shown."""

from __future__ import annotations

import torch

from lab import linear
from lab.recipes import RECIPES
from lab.session import Lab
from lab.show import Table
from lab.training import evaluate, summary


def answer(question: str, guess: float | None, true: float, unit: str) -> Table:
    """The reader's number beside the true one, which waits for it."""
    told = guess is not None
    return Table([{"question": question, "your guess": guess if told else "make one",
                   "true value": true if told else None, "unit": unit,
                   "off by": guess - true if told else None}],
                 {"your guess": ",.4g", "true value": ",.4g", "off by": "+,.3g"})


class Chapter:
    """Questions about CIFAR-10, each with a parameter to play with and a guess to make."""

    def __init__(self, lab: Lab, scale):
        self.lab, self.scale = lab, scale.cifar

    def directions(self, beta: float = 4.0, guess: float | None = None) -> Table:
        """How many directions the best linear VAE keeps at a weight of the KL."""
        sigma2 = RECIPES["p1-conv"].but(beta=beta).sigma2
        kept = linear.linear_optimum(self.scale.spectrum, sigma2).active
        return answer(f"squared error + {beta:g} KL: what the best linear VAE keeps of 3,072",
                      guess, kept, "directions")

    def latent(self, size: int = 16, guess: float | None = None) -> Table:
        """What a smaller latent space costs the best linear VAE with squared error."""
        recipe = RECIPES["p1-conv"]
        small, large = (linear.linear_optimum(self.scale.spectrum, recipe.sigma2, n).loss()
                        for n in (size, recipe.latent))
        return answer(f"squared error: what {size} instead of {recipe.latent} dimensions cost it",
                      guess, small - large, "nats")

    def permuted(self, name: str = "conv", guess: float | None = None) -> Table:
        """What permuting the pixels of the test images alone does to a trained model."""
        run, seed, test = self.lab.train(name), self.lab.settings.seed, self.lab.cifar.test.images
        images = torch.stack([test, self.lab.permuted.test.images])[:, :2000]
        there, moved = (summary(run.recipe, evaluate(run.model, part, seed=seed))["loss"]
                        for part in images)
        return answer(f"what permuted pixels in the test images alone cost {name}", guess,
                      moved - there, "nats")
