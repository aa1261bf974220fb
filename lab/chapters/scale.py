"""The scale: what no model, the mean image and PCA reach on a set of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from data import Splits
from lab import measures
from lab.recipes import RECIPES
from lab.runs import Run
from lab.session import Lab
from lab.show import Figure, Table
from lab.starts import start
from lab.training import evaluate, summary
from vae_helpers import (
    Recipe,
    build,
    count_parameters,
    draw_architectures,
    picture,
    plot_spectra,
    tile,
)

FITTED_ON = 4_000       # training images that choose PCA's one gain


@dataclass(frozen=True)
class Scale:
    """What needs no training on a dataset: nats per image, and the spectrum of its pixels."""

    floor: float                    # entropy of the training pixels
    test_floor: float
    test_mean_image: float          # the training images' mean as the answer to every test image
    spectrum: measures.Spectrum

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
    return Scale(measures.entropy_floor(images), measures.entropy_floor(test),
                 measures.mean_image_loss(test, of=images), measures.spectrum(images, top))


def first_share(spectrum: measures.Spectrum, n: int) -> float:
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
            "images/s": run and run.identity["images"] / run.pace,
            "seconds": run and run.seconds}


class Chapter:
    """The datasets, and what is known of them before any training."""

    def __init__(self, lab: Lab):
        self.lab = lab

    @cached_property
    def cifar(self) -> Scale:
        return scale_of(self.lab.cifar, top=768)

    @cached_property
    def faces(self) -> Scale:
        return scale_of(self.lab.faces, top=384)

    def examples(self) -> Figure:
        """The first training images of both sets."""
        sheets = {"CIFAR-10": tile(self.lab.cifar.train.images[:32], 16),
                  "CelebA": tile(self.lab.faces.train.images[:16], 8)}
        drawn = picture(sheets, "Things anywhere in the picture, and faces all in one place",
                        across=False)
        return self.lab.figure(drawn, "data", "32 training images of CIFAR-10, animals and "
                               "vehicles, and 16 aligned faces of CelebA", picture=True)

    def spectra(self) -> Figure:
        """The eigenvalues of both sets against the variance that each loss implies."""
        lines = {"cross-entropy, σ² = ¼": RECIPES["conv"].sigma2,
                 "SSE + KL, σ² = ½": RECIPES["p1-conv"].sigma2}
        values = {"CIFAR-10": self.cifar.spectrum.eigenvalues,
                  "CelebA 64": self.faces.spectrum.eigenvalues}
        return self.lab.figure(plot_spectra(values, lines), "spectra",
                               "Eigenvalues of the pixel covariance of both sets by rank, "
                               "with the decoder variances of two losses as lines")

    def prices(self) -> Table:
        """Directions worth their price, and what a linear model spends on them, for each set."""
        found, rows = self.lab.found, []
        sets = {"cifar": ("CIFAR-10", self.cifar, RECIPES["conv"]),
                "celeba64": ("CelebA 64", self.faces, RECIPES["celeba64"])}
        for key, (name, scale, recipe) in sets.items():
            best = measures.linear_optimum(scale.spectrum, recipe.sigma2)
            found.add(f"{key}.floor", scale.floor, "nats", note="training")
            found.add(f"{key}.test_floor", scale.test_floor, "nats")
            found.add(f"{key}.mean_image", scale.mean_image, "nats", note="above the test floor")
            found.add(f"{key}.linear_active", best.active, "directions", note="at σ² = ¼")
            found.add(f"{key}.linear_rate", best.rate, "nats", note="at σ² = ¼")
            found.add(f"{key}.linear_dof", best.dof, "directions", note="at σ² = ¼")
            share = found.add(f"{key}.first_ten", first_share(scale.spectrum, 10), "of variance")
            rows.append({"set": name, "floor, training": scale.floor,
                         "floor, test": scale.test_floor, "mean image above it": scale.mean_image,
                         "variance in 10 directions": share, "σ²": recipe.sigma2,
                         "directions above σ²": best.active, "degrees of freedom": best.dof,
                         "nats spent on them": best.rate, "latent dimensions": recipe.latent})
        return Table(rows, {"floor, training": ",.1f", "floor, test": ",.1f", "σ²": ".2f",
                            "mean image above it": ",.1f", "variance in 10 directions": ".0%",
                            "degrees of freedom": ".1f",
                            "nats spent on them": ".1f"})

    def architectures(self) -> Figure:
        """The two models of Task 1, drawn to one plan."""
        drawn = draw_architectures(RECIPES["conv"], RECIPES["fc"])
        return self.lab.figure(drawn, "architectures", "The layers of the convolutional and the "
                               "fully connected VAE with the shapes that they pass on")

    def recipes(self) -> Table:
        """Every recipe with what decides it."""
        return recipe_table(RECIPES.values())


def recipe_table(recipes) -> Table:
    """Recipes with what decides them, a row each."""
    rows = [{"recipe": f"`{r.name}`", "data": f"{r.data} {r.side}×{r.side}",
             "network": f"{r.network} {'-'.join(map(str, r.widths))}", "latent": r.latent,
             "loss": f"{r.link}, {r.reconstruction}", "β": r.beta if r.noise else None,
             "batch": r.batch, "rate": r.lr,
             "epochs": f"≤ {r.epochs}" if r.patience else r.epochs,
             "parameters": count_parameters(build(r))} for r in recipes]
    return Table(rows, {"rate": "g", "parameters": ",", "β": "g"})
