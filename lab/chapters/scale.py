"""The scale: what no model, the mean image and PCA reach on a set of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from data import Splits
from lab import linear
from lab.linear import start
from lab.recipes import RECIPES
from lab.runs import Run
from lab.session import Lab
from lab.show import Table
from lab.training import evaluate, summary
from vae_helpers import (
    Recipe,
    build,
    count_parameters,
)

FITTED_ON = 4_000       # training images that choose PCA's one gain


@dataclass(frozen=True)
class Scale:
    """What needs no training on a dataset: nats per image, and the spectrum of its pixels."""

    floor: float                    # entropy of the training pixels
    test_floor: float
    test_mean_image: float          # the training images' mean as the answer to every test image
    spectrum: linear.Spectrum

    @property
    def mean_image(self) -> float:
        """What the mean image leaves above the floor of the test images."""
        return self.test_mean_image - self.test_floor

    def way(self, test_loss: float) -> float:
        """How much of the way from the mean image to the floor a test loss has come."""
        return (self.test_mean_image - test_loss) / self.mean_image


def scale_of(splits: Splits, top: int) -> Scale:
    """The scale of a dataset, with the `top` largest eigenvalues."""
    images, test = splits.train.images, splits.test.images
    return Scale(linear.entropy_floor(images), linear.entropy_floor(test),
                 linear.mean_image_loss(test, of=images), linear.spectrum(images, top))


def first_share(spectrum: linear.Spectrum, n: int) -> float:
    """How much of the images' variance lies in the first n directions."""
    return (spectrum.eigenvalues[:n].sum() / spectrum.total).item()


def pca_model(recipe: Recipe, scale: Scale, gain: float = 1.0):
    """The best linear VAE for squared error, led through the sigmoid; its logits times `gain`.

    Under cross-entropy it is no optimum, which is why one gain improves it.
    """
    model = build(recipe.but(network="fc", widths=(), norm=False, start="weights",
                             start_gain=gain)).eval()
    start(model, scale.spectrum)
    return model


def best_gain(recipe: Recipe, scale: Scale, images: Tensor, seed: int) -> float:
    """The gain that scores best on some training images, of a grid from 1 to 1.6."""
    gains = [1 + 0.05 * i for i in range(13)]

    def loss(gain: float) -> float:
        return summary(recipe, evaluate(pca_model(recipe, scale, gain), images, seed=seed))["loss"]

    return min(gains, key=loss)


def pca_terms(recipe: Recipe, scale: Scale, test: Tensor, seed: int, gain: float = 1.0) -> dict:
    """Test loss, reconstruction and KL of PCA through a sigmoid, before any step of training."""
    return summary(recipe, evaluate(pca_model(recipe, scale, gain), test, seed=seed), "test_")


def loss_row(name: str, terms: dict, scale: Scale, run: Run | None = None) -> dict:
    """Where test terms lie on the scale, and what a training that reached them cost."""
    loss, rest = terms["test_loss"], terms["test_reconstruction"]
    return {"model": name, "parameters": run and count_parameters(run.model),
            "epoch": terms.get("epoch"), "training loss": terms.get("loss"), "test loss": loss,
            "above the floor": loss - scale.test_floor, "KL": terms["test_kl"],
            "distortion": rest - scale.test_floor, "share of the way": scale.way(loss),
            "seconds": run and run.seconds}


class Chapter:
    """The datasets, and what is known of them before any training."""

    def __init__(self, lab: Lab):
        self.lab = lab

    @cached_property
    def cifar(self) -> Scale:
        return self._keep("cifar", scale_of(self.lab.cifar, top=384), RECIPES["conv"])

    @cached_property
    def faces(self) -> Scale:
        return self._keep("celeba64", scale_of(self.lab.faces, top=384), RECIPES["celeba64"])

    def _keep(self, key: str, scale: Scale, recipe: Recipe) -> Scale:
        """The same scale; its numbers, and what a linear model does at σ² = ¼, are findings."""
        best, add = linear.linear_optimum(scale.spectrum, recipe.sigma2), self.lab.found.add
        add(f"{key}.floor", scale.floor, "nats", note="training")
        add(f"{key}.test_floor", scale.test_floor, "nats")
        add(f"{key}.mean_image", scale.mean_image, "nats", note="above the test floor")
        add(f"{key}.linear_active", best.active, "directions", note="at σ² = ¼")
        add(f"{key}.linear_rate", best.rate, "nats", note="at σ² = ¼")
        add(f"{key}.linear_dof", best.dof, "directions", note="at σ² = ¼")
        add(f"{key}.first_ten", first_share(scale.spectrum, 10), "of variance")
        return scale

    def recipes(self) -> Table:
        """Every recipe with what decides it."""
        return recipe_table(RECIPES.values())


def recipe_table(recipes) -> Table:
    """Recipes with what decides them, a row each."""
    rows = [{"recipe": f"`{r.name}`", "data": f"{r.data}\N{NO-BREAK SPACE}{r.side}×{r.side}",
             "network": f"{r.network} {'-'.join(map(str, r.widths))}".strip(), "latent": r.latent,
             "loss": r.reconstruction + ", tanh" * (r.link == "tanh"),
             "β": r.beta if r.noise else None,
             "batch": r.batch, "rate": r.lr,
             "epochs": f"≤ {r.epochs}" if r.patience else r.epochs,
             "parameters": count_parameters(build(r))} for r in recipes]
    return Table(rows, {"rate": "g", "parameters": ",", "β": "g"})
