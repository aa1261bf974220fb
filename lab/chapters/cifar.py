"""Task 1: a convolutional VAE against a fully connected one on CIFAR-10, and an improvement."""

from __future__ import annotations

from statistics import fmean, stdev

import torch
from torch import Tensor

from lab.chapters.scale import pca_gain, pca_model, pca_terms, scale
from lab.latent import against_linear, amortisation_gap, rate_and_distortion
from lab.linear import RateDistortion, curve_on, scores_of
from lab.notebook import Lab, needs, once
from lab.recipes import RECIPES, SPRINT_TRIALS, TRIALS, Training
from lab.runs import Job, Run, median_seconds
from lab.samples import COMPARED, blur_shown, ssim
from lab.show import Figure, Table, finite
from lab.training import draw_images, reconstruct
from vae_helpers import (
    VAE,
    build,
    count_parameters,
    plot_bars,
    plot_by_seconds,
    plot_curves,
    plot_over_linear,
)

THREE = ("conv", "fc", "improved")
# The trained models of the table of losses; all but the last are recipes.
MODELS = {"linear": "linear: trained from PCA", "fc": "**fc**",
          "fc-wide": "fc-wide: one layer of 768", "fc-norm": "fc-norm: layer normalisation",
          "fc-long": "fc-long: 65 epochs", "fc-cycle": "fc-cycle: one cycle of the rate",
          "fc-pca": "fc-pca: the same network, from PCA", "conv": "**conv**",
          "conv-cycle": "conv-cycle: one cycle of the rate", "sprint": "sprint",
          "improved": "**improved**", "conv-long": "conv for 30 epochs"}
PLACED = ("fc", "conv", "conv-cycle", "fc-pca", "improved")     # by rate and squared error
SSIM = "SSIM of reconstructions"
MOVED = ("conv", "fc", "fc-pca", "improved")                    # also trained on permuted pixels


def over_seeds(values: list[float]) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds; one seed has no standard deviation."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def key_of(name: str) -> str:
    """What the findings of a recipe begin with."""
    return name.replace("-", "_")


# ---- losses


@once
def pca(lab: Lab) -> VAE:
    """PCA through a sigmoid: a linear VAE in closed form."""
    return pca_model(RECIPES["fc"], scale(lab, "cifar"))


@once
def untrained(lab: Lab) -> dict[str, dict]:
    """Test terms of what needs no training."""
    known, recipe, seed = scale(lab, "cifar"), RECIPES["fc"], lab.settings.seed
    test, gain = lab.cifar.test.images, pca_gain(lab, "cifar")
    return {"mean image": {"test_loss": known.test_mean_image, "test_kl": 0.0},
            "PCA": pca_terms(recipe, known, test, seed),
            "PCA with one gain": pca_terms(recipe, known, test, seed, gain)}


def above(lab: Lab, terms: dict) -> float:
    """Test nats above the floor."""
    return terms["test_loss"] - scale(lab, "cifar").test_floor


def levels(lab: Lab) -> dict[str, float]:
    """What PCA reaches above the test floor without training."""
    return {name: above(lab, terms) for name, terms in untrained(lab).items()
            if name != "mean image"}


def trained(lab: Lab) -> dict[str, list[Run]]:
    """Every model of the table that is there, in all seeds that are there."""
    found = {name: lab.seeds(name) for name in MODELS if name in RECIPES}
    found["conv-long"] = lab.seeds("conv", epochs=30)
    return {name: runs for name, runs in found.items() if runs}


def losses(lab: Lab) -> Table:
    """Where every model ends, after what needs no training; a row is of the first seed."""
    found = trained(lab)
    rows = [loss_row(lab, name, terms, []) for name, terms in untrained(lab).items()]
    rows += [loss_row(lab, MODELS[name], runs[0].chosen, runs) for name, runs in found.items()]
    keep_losses(lab, {name: runs[0] for name, runs in found.items()})
    for name in ("conv", "fc"):
        _, sd = over_seeds([run.chosen["loss"] for run in found[name]])
        lab.found.keep(f"{name}.training_sd", sd, "nats", note=f"{len(found[name])} seeds")
    absent = ", ".join(name for name in MODELS if name not in found)
    return Table(rows, {"test loss": ",.1f", "above the floor": ".1f", "mean of seeds": ".1f",
                        "±": ".1f", "KL": ".1f", "error over linear": ".3f", "seconds": ",.0f"},
                 caption=f"Not trained here: {absent}." if absent else "")


def loss_row(lab: Lab, label: str, terms: dict, runs: list[Run]) -> dict:
    """A row of the table of losses, from test terms and the seeds of the training behind them."""
    row = {"model": label, "epochs": terms.get("epoch"), "test loss": terms["test_loss"],
           "above the floor": above(lab, terms), "mean of seeds": None, "±": None, "seeds": None,
           "KL": terms["test_kl"], "error over linear": None, "seconds": None}
    if runs:
        mean, sd = over_seeds([above(lab, run.chosen) for run in runs])
        row |= {"mean of seeds": mean, "±": sd, "seeds": len(runs), "seconds": runs[0].seconds,
                "error over linear": over_linear(lab, runs[0].model)[1]}
    return row


def keep_losses(lab: Lab, first: dict[str, Run]) -> None:
    """Keeps what prose, claims and README read of the first seed of every model."""
    keep, ends = lab.found.keep, levels(lab)
    ends |= {name: above(lab, run.chosen) for name, run in first.items()}
    keep("pca.above_floor", ends["PCA"], "nats", note="test")
    for name in ("conv", "conv-cycle", "fc", "fc-norm", "fc-long", "fc-pca", "sprint", "improved"):
        if name in first:
            keep(f"{key_of(name)}.above_floor", ends[name], "nats", first[name], "test")
    for name in THREE:
        run = first[name]
        for what in ("loss", "kl"):
            keep(f"{name}.{what}", run.chosen[what], "nats", run, "training")
        keep(f"{name}.parameters", count_parameters(run.model))
    for name in ("conv", "fc", "sprint"):
        keep(f"{name}.seconds", first[name].seconds, "s", first[name], "at its median epoch")
    for name in ("conv", "conv-cycle", "improved"):
        if name in first:
            ratio = over_linear(lab, first[name].model)[1]
            keep(f"rd.{key_of(name)}", ratio, "of the linear squared error", first[name])
    conv = first["conv"]
    keep("conv.test_loss", conv.chosen["test_loss"], "nats", conv)
    keep("conv.test_kl", conv.chosen["test_kl"], "nats", conv)
    if "conv-long" in first:
        keep("conv.long_above_floor", ends["conv-long"], "nats", first["conv-long"], "test")
    keep_differences(lab, ends)


def keep_differences(lab: Lab, ends: dict[str, float]) -> None:
    """Keeps what a start, a schedule or a training is worth, test nats of the first seeds."""
    def keep(name: str, more: str, less: str) -> None:
        if more in ends and less in ends:
            lab.found.keep(name, ends[more] - ends[less], "nats", note=f"{more} less {less}")

    keep("conv.less_fc", "fc", "conv")
    keep("fc_pca.behind_conv", "fc-pca", "conv-cycle")
    keep("fc_cycle.less", "fc", "fc-cycle")
    keep("fc_wide.less", "fc", "fc-wide")
    keep("fc_pca.less_best", "fc-cycle", "fc-pca")
    keep("fc_pca.trained", "PCA with one gain", "fc-pca")
    keep("linear.trained", "PCA with one gain", "linear")


def curves(lab: Lab) -> Figure:
    """Loss above the floor and KL by epoch."""
    known = scale(lab, "cifar")
    drawn = {name: {"epoch": run.curve("epoch"), "kl": run.curve("test_kl"),
                    "test": [above(lab, each) for each in run.history],
                    "training": [loss - known.floor for loss in run.curve("loss")]}
             for name, run in zip(THREE, map(lab.run, THREE), strict=True)}
    return lab.figure(plot_curves(drawn, levels(lab)), "cifar-curves",
                      "Training and test loss above the floor, and KL, by epoch: fc ends above "
                      "the levels of PCA, conv below them, improved lowest")


def by_seconds(lab: Lab) -> Figure:
    """Test loss above the floor against seconds of training, what a start takes included."""
    runs = {name: lab.run(name) for name in (*THREE, "sprint")}
    drawn = {name: {"seconds": [run.seconds - run.pace * (len(run.history) - epoch)
                                for epoch in run.curve("epoch")],
                    "test": [above(lab, each) for each in run.history]}
             for name, run in runs.items()}
    lab.found.keep("sprint.sooner", runs["conv"].seconds / runs["sprint"].seconds, "times",
                   runs["sprint"], "conv's seconds over its own")
    return lab.figure(plot_by_seconds(drawn, levels(lab)), "cifar-seconds",
                      "Test loss above the floor against seconds of training for conv, fc, "
                      "improved and sprint, one star far to the left, with the levels of PCA")


# ---- what the nats buy


@once
def linear_curve(lab: Lab) -> RateDistortion:
    """KL and squared error on test images of the linear VAEs that are best for training images."""
    known, sigma2s = scale(lab, "cifar").spectrum, torch.logspace(-2.5, 2.5, 100).tolist()
    scores = scores_of(known, lab.cifar.test.images)
    return curve_on(known, scores, sigma2s, RECIPES["conv"].latent)


@once
def over_linear(lab: Lab, model: VAE) -> tuple[float, float | None]:
    """A model's rate on test images, and its squared error over the linear one of that rate."""
    point = rate_and_distortion(model, lab.cifar.test.images, lab.settings.seed)
    return point[0], against_linear({"model": point}, linear_curve(lab))["model"]


def rates(lab: Lab) -> Figure:
    """Squared error of models, all seeds, over that of the best linear VAE of the same rate."""
    models = {"PCA": [pca(lab)]}
    models |= {name: [run.model for run in lab.seeds(name)] for name in PLACED}
    points = {name: [over_linear(lab, model) for model in each] for name, each in models.items()}
    known = {name: [point for point in each if point[1] is not None]
             for name, each in points.items()}
    drawn = plot_over_linear({name: each for name, each in known.items() if each})
    return lab.figure(drawn, "rate-distortion", "Squared error over that of the best linear VAE of "
                      "the same rate: fc lies above 1, conv near 1, fc-pca and improved below")


# ---- samples


@once
def samples(lab: Lab) -> dict[str, Tensor]:
    """As many samples of each of the three models as there are test images, in [0, 1]."""
    n, seed = len(lab.cifar.test), lab.settings.seed
    return {name: draw_images(lab.run(name).model, n, seed) for name in THREE}


@once
def measured(lab: Lab) -> dict[str, dict]:
    """What the judge measures of the samples of each of the three models."""
    return {name: lab.judge.measure(images) for name, images in samples(lab).items()}


@once
def blurs(lab: Lab, name: str) -> list[float | None]:
    """The equivalent blur of a model's samples, pixels, from every seed that is there."""
    _, *others = lab.seeds(name)
    sets = [draw_images(run.model, COMPARED, lab.settings.seed) for run in others]
    return [measured(lab)[name]["blur"], *(lab.judge.measure(each)["blur"] for each in sets)]


def quality(lab: Lab) -> Table:
    """Real images, their mean, and samples of PCA and of each model, as the judge measures them;
    a row is of the first seed."""
    judge, n, known = lab.judge, len(lab.cifar.test), pca(lab)
    of_pca = judge.measure(draw_images(known, n, lab.settings.seed))
    rows = [quality_row(lab, "half of the test images", judge.ends["real"]),
            quality_row(lab, "mean image", judge.ends["mean"]),
            quality_row(lab, "PCA", of_pca) | {SSIM: likeness(lab, known)}]
    for name, found in measured(lab).items():
        run, all_seeds = lab.run(name), blurs(lab, name)
        lab.found.keep(f"blur_px.{name}", found["blur"], "pixels", run, "of real images, by KID")
        rows.append(quality_row(lab, name, found) | {
            SSIM: likeness(lab, run.model), "seeds": len(all_seeds),
            "± over seeds": over_seeds(all_seeds)[1] if None not in all_seeds else None})
    return Table(rows, {judge.name: ".3g", "KID": ".2f", "±": ".2f", "± over seeds": ".1f",
                        "equivalent blur, pixels": ".1f", SSIM: ".3f"})


def quality_row(lab: Lab, label: str, found: dict) -> dict:
    """A row of the table of samples, from what the judge measures."""
    return {"images": label, lab.judge.name: found["distance"], "KID": found["kid"],
            "±": found["kid_error"], "equivalent blur, pixels": blur_shown(found),
            "± over seeds": None, "seeds": None, SSIM: None}


def likeness(lab: Lab, model: VAE) -> float | None:
    """The mean structural similarity of 1,000 test images and their reconstructions."""
    some = lab.cifar.test.images[:1000]
    return finite(ssim(reconstruct(model, some), some).mean())


# ---- pixels permuted


def training_losses(lab: Lab, name: str) -> dict[str, tuple[float, float | None]]:
    """Training loss above the floor with pixels in place and permuted, with standard deviations
    over seeds."""
    floor = scale(lab, "cifar").floor
    return {kind: over_seeds([run.chosen["loss"] - floor for run in runs])
            for kind, runs in (("in place", lab.seeds(name)),
                               ("permuted", lab.seeds(name, permuted=True)))}


@needs("fc-pca", *(Training(name, permuted=True) for name in MOVED))
def permuted(lab: Lab) -> Figure:
    """Training loss with pixels in place and permuted."""
    drawn = {name: training_losses(lab, name) for name in MOVED}
    first = {name: lab.run(name).chosen["loss"] for name in MOVED}
    moved = {name: lab.run(name, permuted=True).chosen["loss"] for name in MOVED}
    for name in ("conv", "fc"):
        lab.found.keep(f"permuted.{name}", moved[name] - first[name], "nats", note="training loss")
    lab.found.keep("permuted.lead_left", moved["fc"] - moved["conv"], "nats",
                   note="fc less conv, training loss, pixels permuted")
    lab.found.keep("permuted.improved_ends", drawn["improved"]["permuted"][0], "nats",
                   lab.run("improved", permuted=True), "training loss above the floor")
    return lab.figure(
        plot_bars(drawn, "What permuting the pixels costs", "training loss above the floor, nats"),
        "cifar-permuted", "Training loss above the floor with pixels in place and permuted: conv "
        "loses much, fc and fc from PCA next to nothing")


# ---- the appendix


def gaps(lab: Lab) -> Table:
    """What fitting each code anew gains over the encoder, nats an image."""
    n, steps = (12, 20) if lab.settings.shortened else (128, 100)
    images, seed = lab.cifar.test.images[:n], lab.settings.seed
    found = {name: amortisation_gap(lab.run(name).model, images, seed, steps) for name in THREE}
    lab.found.keep("gap.improved", found["improved"][0], "nats", lab.run("improved"),
                   f"{len(images)} test images")
    return Table([{"model": name, "gained": gain, "± over images": error}
                  for name, (gain, error) in found.items()],
                 {"gained": ".1f", "± over images": ".1f"})


def trials(lab: Lab) -> Table:
    """What was tried for the improvement, three epochs each."""
    return trial_table({tried: lab.job(recipe) for tried, recipe in TRIALS.items()})


def sprint_trials(lab: Lab) -> Table:
    """What was tried for the sprint, one epoch each, below ten epochs of conv."""
    return trial_table({tried: lab.job(recipe) for tried, recipe in SPRINT_TRIALS.items()})


def trial_table(jobs: dict[str, Job]) -> Table:
    """The last epoch of every trial that is finished; how many are not is said above it."""
    done = {tried: job for tried, job in jobs.items() if job.finished}
    losses = {tried: job.history[-1]["heldout_loss"] for tried, job in done.items()}
    first = losses.get(next(iter(jobs)))
    rows = [{"tried": tried, "parameters": count_parameters(build(job.recipe)),
             "held-out loss": losses[tried],
             "against the first": None if first is None else losses[tried] - first,
             "training loss": job.history[-1]["loss"],
             "seconds an epoch": median_seconds(job.history)} for tried, job in done.items()]
    left = len(jobs) - len(done)
    caption = f"{left} of {len(jobs)} trials are not trained here; `python -m lab trials` does it."
    return Table(rows, {"parameters": ",", "held-out loss": ",.1f", "against the first": "+.1f",
                        "training loss": ",.1f", "seconds an epoch": ".0f"},
                 caption=caption if left else "")
