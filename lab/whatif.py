"""What would change if: the best linear VAE for a latent size and a β, beside the nearest run."""

import math

from lab.density import closed_nats
from lab.files import Refused
from lab.linear import Spectrum, critical_betas, linear_optimum
from lab.recipes import RECIPES
from lab.runs import committed_trainings
from lab.shipped import read_shipped
from lab.show import Table, number
from vae_helpers import Recipe

STORED = {"cifar": "improved", "faces": "faces"}    # the shipped weights that hold the eigenvalues
MEASURED = {"test_loss", "test_kl", "test_floor"}   # what a training must say of itself
LOSS, DOF, KEPT = "loss above its floor", "degrees of freedom", "directions kept"
BITS = "bits per colour value"
FORMATS = {"β": "g", "σ²": ".3g", LOSS: ",.1f", "KL": ".2f", DOF: ".1f", BITS: ".2f"}
SETS = ("A closed form is of the training images, a run is measured on test images. Bits are those "
        "of a Gaussian decoder of variance σ², as a density; an image file without compression "
        "has 8.")
APPROXIMATE = ("For cross-entropy the closed form is optimistic: it takes the loss above the floor "
               "as twice the squared error, which is the least that it can be. So no real linear "
               "VAE is as good as the one of this table.")
ALONE = ("No run of these images with this kind of loss is stored with what it measured, so there "
         "is none to compare.")


def what_if(latent: int = 128, beta: float = 1.0, data: str = "cifar", reconstruction: str = "bce",
            sigma2: float | None = None) -> Table:
    """What a VAE of "cifar" or "faces" would come to by the closed form of the linear VAE, and how
    far off that is for the nearest run of the committed notebook. A `sigma2` asks for a Gaussian
    decoder of this variance in the place of "bce" or "sse".
    """
    if data not in STORED:
        raise Refused(f"data = {data!r} is none of {', '.join(map(repr, STORED))}")
    asked = recipe_asked(RECIPES[STORED[data]], latent, beta, reconstruction, sigma2)
    return compared(read_shipped(STORED[data]).spectrum, asked, committed_trainings())


def recipe_asked(base: Recipe, latent: int, beta: float, reconstruction: str = "bce",
                 sigma2: float | None = None) -> Recipe:
    """The recipe that is asked for, on the images of another; what has no optimum is refused."""
    if type(latent) is not int or latent < 1:
        raise Refused(f"latent = {latent} is no number of dimensions: give a whole one from 1 on")
    if reconstruction not in ("bce", "sse"):
        raise Refused(f"reconstruction = {reconstruction!r} is neither 'bce' nor 'sse'")
    for name, value in {"beta": beta, "sigma2": 1.0 if sigma2 is None else sigma2}.items():
        if not 1e-9 <= value <= 1e9:                    # at beta = 0 every code is free
            raise Refused(f"{name} = {value:g} has no optimum that can be worked out: give a "
                          "number above 0, such as 1")
    sigma = None if sigma2 is None else math.sqrt(sigma2)
    return base.but(latent=latent, beta=beta, start="random", sigma=sigma,
                    reconstruction="gaussian" if sigma else reconstruction)


# ---- the closed form


def weight(recipe: Recipe) -> float:
    """The a of a·SSE + β·KL, from the decoder variance β/2a. For cross-entropy it is 2, as in
    Pinsker's inequality."""
    return recipe.beta / (2 * recipe.sigma2)


def closed_row(name: str, known: Spectrum, recipe: Recipe) -> dict:
    """A row of the table: the best linear VAE for a recipe. What needs more eigenvalues than are
    known is refused."""
    try:
        best = linear_optimum(known, recipe.sigma2, recipe.latent)
    except ValueError as error:
        n, least = len(known.eigenvalues), critical_betas(known, recipe)[-1]
        raise Refused(f"only {n} eigenvalues are stored, and at beta = {recipe.beta:g} more may "
                      f"count: ask for at most {n} dimensions, or for a beta above "
                      f"{1.01 * least:.3g}") from error               # which is rounded
    bits = closed_nats(known, recipe.sigma2, recipe.latent) / (len(known.mean) * math.log(2))
    return {"model": name, "latent": recipe.latent, "β": recipe.beta, "σ²": recipe.sigma2,
            LOSS: best.loss(weight(recipe), recipe.beta), "KL": best.rate, DOF: best.dof,
            KEPT: best.active, BITS: bits}


def verdict(critical: float, row: dict) -> str:
    """A sentence on whether a row's code is used, where from the critical β on none is."""
    if not row[KEPT]:
        return (f"Collapse: from β = {critical:.4g} on no direction of these images is worth its "
                "nats, so the KL is 0 and every image is answered with the mean image.")
    return (f"No collapse, which begins at β = {critical:.4g}: of {row['latent']} dimensions "
            f"{row[KEPT]} are used, for directions with a variance above {row['σ²']:.3g}.")


# ---- the nearest run


def comparable(asked: Recipe, training: dict) -> bool:
    """Whether a training has a closed form of this kind and says what it measured."""
    recipe = RECIPES.get(training["recipe"])
    return bool(recipe and recipe.noise and recipe.sigma2 and training.keys() >= MEASURED
                and (recipe.data, recipe.side, recipe.reconstruction)
                == (asked.data, asked.side, asked.reconstruction))


def nearest(asked: Recipe, trainings: list[dict]) -> dict | None:
    """The training that is nearest to a recipe; None where there is none to compare.

    It is of the same data, side and kind of reconstruction, and has the least |ln| of the ratio of
    decoder variances (for "bce" and "sse" that of the βs) plus |log2| of the ratio of latent sizes;
    of several at one distance it has the least test loss.
    """
    def order(training: dict) -> tuple[float, float]:
        recipe = RECIPES[training["recipe"]]
        apart = (abs(math.log(recipe.sigma2 / asked.sigma2))
                 + abs(math.log2(recipe.latent / asked.latent)))
        return apart, training["test_loss"]

    return min((each for each in trainings if comparable(asked, each)), key=order, default=None)


def compared(known: Spectrum, asked: Recipe, trainings: list[dict]) -> Table:
    """The closed form that is asked for, that of the nearest run's recipe, and what it measured."""
    rows = [closed_row("asked for, closed form", known, asked)]
    said = [verdict(critical_betas(known, asked)[0].item(), rows[0]), SETS]
    said += [APPROXIMATE] * (asked.reconstruction == "bce")
    found = nearest(asked, trainings)
    if found is None:
        return Table(rows, FORMATS, "\n".join([*said, ALONE]))
    closed = closed_row("nearest run, closed form", known, RECIPES[found["recipe"]])
    run = closed | {"model": "nearest run, measured", DOF: None, KEPT: None, BITS: None,
                    LOSS: found["test_loss"] - found["test_floor"], "KL": found["test_kl"]}
    said.append(f"The nearest run is {found['training']} (latent {run['latent']}, β = "
                f"{run['β']:g}): its loss is {off(run[LOSS], closed[LOSS])} the closed form of its "
                f"own recipe, and its KL is {off(run['KL'], closed['KL'])} it.")
    return Table([*rows, closed, run], FORMATS, "\n".join(said))


def off(measured: float, closed: float) -> str:
    """How far a measurement is above or below a closed form, in words."""
    share = f" ({number(abs(measured / closed - 1), '.0%')})" if closed else ""
    return f"{abs(measured - closed):.1f}{share} {'above' if measured >= closed else 'below'}"
