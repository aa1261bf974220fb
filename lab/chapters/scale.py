"""The scale: what no model, the mean image and PCA reach on a set of images."""

from dataclasses import dataclass

from torch import Tensor

from data import Splits
from lab import linear
from lab.notebook import Lab, once
from lab.recipes import RECIPES
from lab.training import evaluate, summary
from vae_helpers import VAE, Recipe

FITTED_ON = 4_000       # training images that choose PCA's one gain
SETS = {"cifar": "conv", "celeba64": "celeba64"}        # whose images have this scale


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


@once
def principal_axes(lab: Lab, name: str, top: int) -> linear.Spectrum:
    """The principal axes of a recipe's training images, so many of them."""
    return linear.spectrum(lab.splits(name).train.images, top)


@once
def scores_on_axes(lab: Lab, name: str, top: int, part: str = "test") -> linear.Scores:
    """What `linear_on` asks of a recipe's test or held-out images on these axes."""
    return linear.scores_of(principal_axes(lab, name, top), getattr(lab.splits(name), part).images)


@once
def scale(lab: Lab, name: str) -> Scale:
    """The scale of "cifar" or of "celeba64", with 384 directions."""
    found = scale_of(lab.splits(SETS[name]), top=384)
    if name == "cifar":
        lab.found.keep("cifar.test_floor", found.test_floor, "nats")
        lab.found.keep("cifar.mean_image", found.mean_image, "nats")
    return found


# ---- PCA through a sigmoid


def pca_model(recipe: Recipe, scale: Scale, gain: float = 1.0) -> VAE:
    """The best linear VAE for squared error, led through the sigmoid; its logits times `gain`,
    which improves it because it is no optimum for cross-entropy."""
    return linear.linear_model(recipe, scale.spectrum, gain)


def pca_terms(recipe: Recipe, scale: Scale, images: Tensor, seed: int, gain: float = 1.0) -> dict:
    """Loss, reconstruction and KL on test images of PCA through a sigmoid, as `test_loss`, ..."""
    return summary(recipe, evaluate(pca_model(recipe, scale, gain), images, seed=seed), "test_")


@once
def pca_gain(lab: Lab, name: str) -> float:
    """The gain of PCA on "cifar" or "celeba64": of a grid from 1 to 1.6 the one that scores best on
    its first training images."""
    recipe, known, seed = RECIPES[SETS[name]], scale(lab, name), lab.settings.seed
    images = lab.splits(recipe).train.images[:FITTED_ON]
    gains = [1 + 0.05 * i for i in range(13)]
    return min(gains, key=lambda g: pca_terms(recipe, known, images, seed, g)["test_loss"])


@once
def untrained(lab: Lab, name: str) -> dict[str, dict]:
    """Test terms of what needs no training on "cifar" or "celeba64"."""
    recipe, known, seed = RECIPES[SETS[name]], scale(lab, name), lab.settings.seed
    test, gain = lab.splits(recipe).test.images, pca_gain(lab, name)
    return {"mean image": {"test_loss": known.test_mean_image, "test_kl": 0.0},
            "PCA": pca_terms(recipe, known, test, seed),
            "PCA with one gain": pca_terms(recipe, known, test, seed, gain)}
