"""Task 3: what a VAE of faces makes of the regions of its latent space."""

import math

from torch import Tensor

from lab.chapters.cifar import distances
from lab.chapters.scale import scale, untrained
from lab.density import aggregate_posterior, kl_gaussian_to_standard
from lab.latent import attribute_correlation, auc_parts, varied
from lab.linear import (
    Estimate,
    Spectrum,
    entropy_floor,
    linear_optimum,
    mean_and_error,
    over_seeds,
)
from lab.notebook import Lab, needs, once
from lab.runs import Run
from lab.samples import features, nearest
from lab.show import Figure, Table, labelled_rows, number
from lab.training import decode_set, draw_images, draw_prior, reconstruct
from vae_helpers import as_pixels, count_parameters, kl_divergence

SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)      # s: what the prior's draws are multiplied by
SHOWN = ("Smiling", "Eyeglasses", "Blond_Hair", "Male")
CLAIMED_LOSS = 6290.0       # of the earlier submission, which does not say how it cropped


# ---- what it has learnt


def losses(lab: Lab) -> Table:
    """The mean image, PCA and the face model on the scale from floor to mean image."""
    run, known, keep = lab.run("celeba64"), scale(lab, "celeba64"), lab.found.keep
    every = untrained(lab, "celeba64") | {"celeba64": run.chosen}
    way = {name: known.way(terms["test_loss"]) for name, terms in every.items()}
    keep("faces_pca.way", way["PCA"])
    keep("celeba64.way", way["celeba64"])
    keep("celeba64.loss", run.chosen["loss"], "nats", run)
    keep("celeba64.kl", run.chosen["kl"], "nats", run)
    keep("celeba64.training_above_floor", run.chosen["loss"] - known.floor, "nats", run)
    keep("celeba64.parameters", count_parameters(run.model), run=run)
    return Table([{"model": name, "test loss": terms["test_loss"],
                   "above the floor": terms["test_loss"] - known.test_floor,
                   "KL": terms["test_kl"], "share of the way": way[name]}
                  for name, terms in every.items()],
                 {"test loss": ",.1f", "above the floor": ".1f", "KL": ".1f",
                  "share of the way": ".0%"})


def keep_crop(lab: Lab) -> None:
    """Keeps what cropping changes before any model: the floor of the training faces."""
    whole = entropy_floor(lab.splits("celeba64", crop=False).train.images)
    lab.found.keep("faces.crop_costs", scale(lab, "celeba64").floor - whole, "nats")
    lab.found.keep("faces.claimed_above_whole", CLAIMED_LOSS - whole, "nats")


# ---- by distance from the centre


def numbers_of(images: Tensor) -> dict[str, float]:
    """How far the pixels of images spread over the images, and the share of their values that
    round to within two grey levels of black or white."""
    x = as_pixels(images)
    return {"spread": x.std(0).mean().item(),
            "saturated": ((x < 2.5 / 255) | (x > 252.5 / 255)).float().mean().item()}


@once
def measured(lab: Lab, s: float | None) -> dict:
    """Numbers, and the judge's measures, of as many samples as there are test faces, whose latent
    vectors are multiplied by s; those of real faces where s is None."""
    judge, test, model = lab.face_judge, lab.faces.test.images, lab.run("celeba64").model
    if s is None:
        return judge.ends["real"] | numbers_of(test)
    images = decode_set(model, s * draw_prior(len(test), model.recipe.latent, lab.settings.seed))
    return judge.measure(images) | numbers_of(images)


def spread(lab: Lab, s: float | None) -> float:
    """How far samples at s, or real faces, spread over their set, as a multiple of that at 1."""
    return measured(lab, s)["spread"] / measured(lab, 1.0)["spread"]


def in_numbers(lab: Lab, s: float | None = None) -> str:
    """What many samples at s, or real faces, are like, in three lines of a label."""
    found = measured(lab, s)
    return (f"FD {number(found['distance'], '.3g')}\n"
            f"{number(found['saturated'], '.0%')} saturated\n"
            f"spread × {number(spread(lab, s), '.2f')}")


def keep_scales(lab: Lab) -> None:
    """Keeps what text and claims quote of samples by s, and of real faces."""
    keep, run = lab.found.keep, lab.run("celeba64")
    keep("faces.spread.s025", spread(lab, 0.25), run=run)
    keep("faces.spread.real", spread(lab, None), run=run)
    keep("faces.saturated.s3", measured(lab, 3.0)["saturated"], run=run)
    keep("faces.saturated.real", measured(lab, None)["saturated"], run=run)
    keep("faces.best_scale", min(SCALES, key=lambda s: measured(lab, s)["distance"]), run=run)


# ---- dimensions and attributes


def keep_correlation(lab: Lab) -> None:
    """Keeps the largest correlation of an attribute with one of five dimensions of highest KL."""
    run = lab.run("celeba64")
    mu, logvar = lab.codes(run)
    dims = kl_divergence(mu, logvar).mean(0).argsort(descending=True)[:5]
    r = attribute_correlation(mu[:, dims], lab.faces.test.labels)
    lab.found.keep("faces.dims_correlation", r.abs().max(), run=run)


def having(lab: Lab, part: str = "train") -> dict[str, Tensor]:
    """Which faces of a set have each of four attributes (N,), if some have it and some lack it."""
    faces = getattr(lab.faces, part)
    columns = [faces.label_names.index(name) for name in SHOWN]
    return varied(faces.labels[:, columns], SHOWN)


def readings(lab: Lab) -> Table:
    """How well test faces are told by their code's place along the training faces' direction of an
    attribute, and along the dimension that correlates with it most among them, as AUC."""
    run, rows, truth = lab.run("celeba64"), [], having(lab, "test")
    (train, _), (test, _) = lab.codes(run, "train"), lab.codes(run)
    for name, has in having(lab).items():
        if name in truth:
            r = attribute_correlation(train, has[:, None])[:, 0]
            dim, direction = r.abs().argmax(), train[has].mean(0) - train[~has].mean(0)
            along, alone = (auc_parts(scores, truth[name]).mean().item() for scores in
                            (test @ direction, test[:, dim] * r[dim].sign()))
            rows.append({"attribute": name, "test faces that have it": truth[name].sum().item(),
                         "AUC, its direction": along, "AUC, best dimension": alone})
            if name == "Smiling":
                lab.found.keep("auc.smiling", along, run=run)
                lab.found.keep("auc.smiling_dimension", alone, run=run)
    return Table(rows, {"test faces that have it": ",", "AUC, its direction": ".3f",
                        "AUC, best dimension": ".3f"})


# ---- other densities, and memory


def densities(lab: Lab) -> Table:
    """Faces from several densities, between real faces and their mean, as the judge sees them."""
    run, judge, test = lab.run("celeba64"), lab.face_judge, lab.faces.test.images
    posterior = aggregate_posterior(*lab.codes(run, "train"))
    drawn = judge.measure(draw_images(run.model, len(test), lab.settings.seed, posterior))
    lab.found.keep("faces.aggregate_kl", kl_gaussian_to_standard(*posterior), "nats", run)
    lab.found.keep("faces.fd.aggregate", drawn["distance"], run=run)
    return distances(judge, "faces from", {
        "half of the test faces": measured(lab, None),
        "reconstructions of the test faces": judge.measure(reconstruct(run.model, test)),
        "the aggregated posterior, as a Gaussian": drawn,
        "N(0, I), draws times 1.5": measured(lab, 1.5), "N(0, I)": measured(lab, 1.0),
        "the mean image": judge.ends["mean"]})


def neighbours(lab: Lab) -> Figure:
    """Samples above the training faces nearest to them."""
    known, net = lab.faces.train.images, lab.face_judge.net
    samples = draw_images(lab.run("celeba64").model, 8, lab.settings.seed)
    described = nearest(features(net, samples), features(net, known)).index
    rows = {"samples": samples, "nearest, in\npixels": known[nearest(samples, known).index],
            "nearest, in\nfeatures": known[described]}
    return lab.figure(labelled_rows(rows, "Samples and the training faces nearest to them", zoom=2,
                                    label=105), "faces-nearest", "Eight samples above their "
                      "nearest training faces, in pixels and in features: other people",
                      picture=True)


def memory(lab: Lab, n: int = 200) -> Table:
    """Mean distances to the nearest training face, with what a remembered one would score."""
    run, known, net = lab.run("celeba64"), lab.faces.train.images, lab.face_judge.net
    test, described, rows = lab.faces.test.images[:n], features(net, known), []
    groups = {"samples": draw_images(run.model, n, lab.settings.seed),
              "test faces, reconstructed": reconstruct(run.model, test), "test faces": test,
              "training faces, reconstructed: what memory would score":
              reconstruct(run.model, known[:n])}
    for name, images in groups.items():
        pixels, error = mean_and_error(nearest(images, known).distance)
        seen, error_seen = mean_and_error(nearest(features(net, images), described).distance)
        rows.append({"from": name, "in pixels": pixels, "±, pixels": error, "in features": seen,
                     "±, features": error_seen})
    for key, i in {"samples": 0, "reconstructed": 1, "control": 3}.items():
        lab.found.keep(f"memory.{key}_pixels", rows[i]["in pixels"], run=run)
    return Table(rows, dict.fromkeys(list(rows[0])[1:], ".2f"))


# ---- latent size


def cost_of_fewer(known: Spectrum, sigma2: float, few: int, many: int) -> float:
    """Nats per image that a linear VAE loses with `few` latent dimensions instead of `many`."""
    a = 1 / (2 * sigma2)
    return linear_optimum(known, sigma2, few).loss(a) - linear_optimum(known, sigma2, many).loss(a)


def mean_loss(runs: list[Run]) -> Estimate:
    """The mean test loss of some seeds and its standard error."""
    mean, sd = over_seeds([run.chosen["test_loss"] for run in runs])
    return Estimate(mean, sd / math.sqrt(len(runs)))


@needs("celeba64-d128")
def keep_latent_size(lab: Lab) -> None:
    """What 128 latent dimensions instead of 256 cost, as means over seeds with a standard error,
    beside what they cost a linear model. Predicted: less than 4 nats either way."""
    many, few = lab.seeds("celeba64"), lab.seeds("celeba64-d128")
    recipe, costs = many[0].recipe, mean_loss(few).less(mean_loss(many))
    linear = cost_of_fewer(scale(lab, "celeba64").spectrum, recipe.sigma2, 128, recipe.latent)
    lab.found.keep("faces.d128_costs", costs.value, "nats")
    lab.found.keep("faces.d128_error", costs.error, "nats")
    lab.found.keep("faces.cost_of_128", linear, "nats")
