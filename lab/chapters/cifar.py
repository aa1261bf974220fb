"""Task 1: a convolutional VAE against a fully connected one on CIFAR-10, and an improvement."""

import math

import torch
from torch import Tensor

import vae_helpers as vae
from lab.chapters.scale import pca_model, scale, untrained
from lab.latent import against_linear, amortisation_gap, rate_and_distortion
from lab.linear import RateDistortion, curve_on, over_seeds, scores_of
from lab.notebook import Lab, needs, once
from lab.recipes import RECIPES, SPRINT_TRIALS, TRIALS, Training
from lab.runs import Job, Run, median_seconds
from lab.samples import COMPARED, Judge, blur_shown
from lab.show import Figure, Table, finite
from lab.training import draw_images

THREE = ("conv", "fc", "improved")
# The trained models of the tables of losses; all but the last are recipes.
MODELS = {"linear": "linear: trained from PCA", "fc": "**fc**",
          "fc-wide": "fc-wide: one layer of 768", "fc-norm": "fc-norm: layer normalization",
          "fc-long": "fc-long: 65 epochs", "fc-cycle": "fc-cycle: one cycle of the rate",
          "fc-pca": "fc-pca: the same network, from PCA", "conv": "**conv**",
          "small": "small: three layers, no normalization",
          "conv-cycle": "conv-cycle: one cycle of the rate", "sprint": "sprint",
          "improved": "**improved**", "conv-long": "conv for 30 epochs"}
ANSWERED = ("mean image", "PCA", "fc", "fc-norm", "fc-long", "fc-pca", "conv", "small",
            "conv-cycle", "improved")                           # what the answer speaks of
JUDGED = ("conv", "fc", "fc-pca", "improved")                   # by their samples
PLACED = ("fc", "conv", "conv-cycle", "fc-pca", "improved")     # by rate and squared error
MOVED = ("conv", "fc", "fc-pca", "improved")                    # also trained on permuted pixels


# ---- losses


@once
def pca(lab: Lab) -> vae.VAE:
    """PCA through a sigmoid: a linear VAE in closed form."""
    return pca_model(RECIPES["fc"], scale(lab, "cifar"))


def above(lab: Lab, terms: dict) -> float:
    """Test nats above the floor."""
    return terms["test_loss"] - scale(lab, "cifar").test_floor


def levels(lab: Lab) -> dict[str, float]:
    """What PCA reaches above the test floor without training."""
    terms = untrained(lab, "cifar")
    return {name: above(lab, terms[name]) for name in ("PCA", "PCA with one gain")}


def trained(lab: Lab) -> dict[str, list[Run]]:
    """Every model of the tables that is there, in all seeds that are there."""
    found = {name: lab.seeds(name) for name in MODELS if name in RECIPES}
    found["conv-long"] = lab.seeds("conv", epochs=30)
    return {name: runs for name, runs in found.items() if runs}


def losses(lab: Lab) -> Table:
    """Where the models that the answer speaks of end, after what needs no training."""
    keep_losses(lab, trained(lab))
    return loss_table(lab, ANSWERED)


def every_loss(lab: Lab) -> Table:
    """The same of every model."""
    return loss_table(lab, (*untrained(lab, "cifar"), *MODELS), fold="Every model")


def loss_table(lab: Lab, names: tuple[str, ...], fold: str = "") -> Table:
    """The losses of these models; a row is of the first seed."""
    known, found = untrained(lab, "cifar"), trained(lab)
    rows = [loss_row(lab, name, known[name], []) for name in names if name in known]
    rows += [loss_row(lab, MODELS[name], found[name][0].chosen, found[name])
             for name in names if name in found]
    absent = ", ".join(name for name in names if name not in known | found)
    return Table(rows, {"test loss": ",.1f", "above the floor": ".1f", "mean of seeds": ".1f",
                        "±": ".1f", "KL": ".1f", "error over linear": ".3f", "seconds": ",.0f"},
                 caption=f"Not trained here: {absent}." if absent else "", fold=fold)


def loss_row(lab: Lab, label: str, terms: dict, runs: list[Run]) -> dict:
    """A row of a table of losses, from test terms and the seeds of the training behind them."""
    row = {"model": label, "epochs": terms.get("epoch"), "test loss": terms["test_loss"],
           "above the floor": above(lab, terms), "mean of seeds": None, "±": None, "seeds": None,
           "KL": terms["test_kl"], "error over linear": None, "seconds": None}
    if runs:
        mean, sd = over_seeds([above(lab, run.chosen) for run in runs])
        row |= {"mean of seeds": mean, "±": finite(sd), "seeds": len(runs),
                "seconds": runs[0].seconds, "error over linear": over_linear(lab, runs[0].model)[1]}
    return row


def keep_losses(lab: Lab, found: dict[str, list[Run]]) -> None:
    """Keeps what prose, claims and README read of the models: of their first seeds, but for two
    deviations over seeds. Nothing is kept of what is not there."""
    keep, first = lab.found.keep, {name: runs[0] for name, runs in found.items()}
    ends = dict.fromkeys(MODELS, math.nan) | levels(lab)
    ends |= {name: above(lab, run.chosen) for name, run in first.items()}
    for name in ("conv", "small", "conv-cycle", "fc", "fc-norm", "fc-long", "fc-pca", "sprint",
                 "improved"):
        keep(f"{key_of(name)}.above_floor", ends[name], "nats", first.get(name))
    keep("pca.above_floor", ends["PCA"], "nats")
    keep("conv.long_above_floor", ends["conv-long"], "nats", first.get("conv-long"))
    keep("fc_cycle.less", ends["fc"] - ends["fc-cycle"], "nats")
    keep("fc_pca.less_best", ends["fc-cycle"] - ends["fc-pca"], "nats")
    keep("improved.less_cycle", ends["conv-cycle"] - ends["improved"], "nats")
    keep("fc_pca.trained", ends["PCA with one gain"] - ends["fc-pca"], "nats")
    for name in ("conv", "improved"):
        keep(f"rd.{name}", over_linear(lab, first[name].model)[1], "of the linear squared error",
             first[name])
    for name in ("conv", "fc", "sprint"):
        keep(f"{name}.seconds", first[name].seconds, "s", first[name])
    for name in THREE:
        keep(f"{name}.parameters", vae.count_parameters(first[name].model))
    for name in ("conv", "fc"):
        keep(f"{name}.loss", first[name].chosen["loss"], "nats", first[name])
        keep(f"{name}.kl", first[name].chosen["kl"], "nats", first[name])
        _, sd = over_seeds([run.chosen["loss"] for run in found[name]])
        keep(f"{name}.training_sd", sd, "nats")
    for run in lab.seeds("improved", permuted=True)[:1]:
        keep("permuted.improved_ends", run.chosen["loss"] - scale(lab, "cifar").floor, "nats", run)
    keep("conv.test_loss", first["conv"].chosen["test_loss"], "nats", first["conv"])
    keep("conv.test_kl", first["conv"].chosen["test_kl"], "nats", first["conv"])


def key_of(name: str) -> str:
    """What the findings of a recipe begin with."""
    return name.replace("-", "_")


def curves(lab: Lab) -> Figure:
    """Loss above the floor by epoch, and where each training lies against linear models."""
    known = scale(lab, "cifar")
    drawn = {name: {"epoch": run.curve("epoch"),
                    "test": [above(lab, each) for each in run.history],
                    "training": [loss - known.floor for loss in run.curve("loss")]}
             for name, run in zip(THREE, map(lab.run, THREE), strict=True)}
    return lab.figure(vae.plot_curves(drawn, levels(lab), placed(lab)), "cifar-curves",
                      "Left, loss above the floor by epoch: fc ends above the levels of PCA, conv "
                      "below them, improved lowest. Right, squared error over that of the best "
                      "linear VAE of the same KL: fc lies above 1, conv just below, fc-pca and "
                      "improved farther below")


def by_seconds(lab: Lab) -> Figure:
    """Test loss above the floor against seconds of training, what a start takes included."""
    runs = {name: lab.run(name) for name in (*THREE, "sprint")}
    drawn = {name: {"seconds": [run.seconds - run.pace * (len(run.history) - epoch)
                                for epoch in run.curve("epoch")],
                    "test": [above(lab, each) for each in run.history]}
             for name, run in runs.items()}
    lab.found.keep("sprint.sooner", runs["conv"].seconds / runs["sprint"].seconds, "times",
                   runs["sprint"])
    return lab.figure(vae.plot_by_seconds(drawn, levels(lab)), "cifar-seconds",
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
def over_linear(lab: Lab, model: vae.VAE) -> tuple[float, float | None]:
    """A model's rate on test images, and its squared error over the linear one of that rate."""
    rate, error = rate_and_distortion(model, lab.cifar.test.images, lab.settings.seed)
    return rate, against_linear(rate, error, linear_curve(lab))


def placed(lab: Lab) -> dict[str, list[tuple[float, float]]]:
    """Rate, and squared error over the linear one of that rate, of models in all their seeds."""
    points = {"PCA": [over_linear(lab, pca(lab))]}
    points |= {name: [over_linear(lab, run.model) for run in lab.seeds(name)] for name in PLACED}
    there = {name: [point for point in each if point[1] is not None]
             for name, each in points.items()}
    return {name: each for name, each in there.items() if each}


# ---- samples


@once
def samples(lab: Lab, name: str) -> Tensor:
    """As many samples of a training as there are test images, in [0, 1]."""
    return draw_images(lab.run(name).model, len(lab.cifar.test), lab.settings.seed)


@once
def measured(lab: Lab, name: str) -> dict:
    """What the judge measures of these samples."""
    return lab.judge.measure(samples(lab, name))


def quality(lab: Lab) -> Table:
    """Real images, their mean, and samples of PCA and of each model, as the judge measures them;
    a row is of the first seed."""
    judge, n = lab.judge, len(lab.cifar.test)
    of_pca = judge.measure(draw_images(pca(lab), n, lab.settings.seed))
    rows = [quality_row(judge, "half of the test images", judge.ends["real"]),
            quality_row(judge, "mean image", judge.ends["mean"]), quality_row(judge, "PCA", of_pca)]
    for name in filter(lab.seeds, JUDGED):
        found, (run, *others) = measured(lab, name), lab.seeds(name)
        lab.found.keep(f"blur_px.{key_of(name)}", found["blur"], "pixels", run)
        drawn = [draw_images(other.model, COMPARED, lab.settings.seed) for other in others]
        blurs = [found["blur"], *(judge.measure(images)["blur"] for images in drawn)]
        sd = finite(over_seeds(blurs).error) if None not in blurs else None
        rows.append(quality_row(judge, name, found) | {"± over seeds": sd, "seeds": len(blurs)})
    return Table(rows, {judge.name: ".3g", "KID": ".2f", "±": ".2f", "± over seeds": ".1f",
                        "equivalent blur, pixels": ".1f"})


def quality_row(judge: Judge, label: str, found: dict) -> dict:
    """A row of the table of samples, from what the judge measures."""
    return {"images": label, judge.name: found["distance"], "KID": found["kid"],
            "±": found["kid_error"], "equivalent blur, pixels": blur_shown(found),
            "± over seeds": None, "seeds": None}


def distances(judge: Judge, head: str, found: dict[str, dict], fold: str = "") -> Table:
    """What a judge has measured: a Fréchet distance, and the blur of real images of equal KID."""
    return Table([{head: name, judge.name: each["distance"],
                   "equivalent blur, pixels": blur_shown(each)} for name, each in found.items()],
                 {judge.name: ".1f", "equivalent blur, pixels": ".1f"}, fold=fold)


# ---- pixels permuted


@needs("fc-pca", *(Training(name, permuted=True) for name in MOVED))
def permuted(lab: Lab) -> Figure:
    """Training loss with pixels in place and permuted, with deviations over seeds."""
    floor, keep = scale(lab, "cifar").floor, lab.found.keep
    drawn = {name: {} for name in MOVED}
    for name, bars in drawn.items():
        for kind in ("in place", "permuted"):
            runs = lab.seeds(name, permuted=kind == "permuted")
            mean, sd = over_seeds([run.chosen["loss"] - floor for run in runs])
            bars[kind] = mean, finite(sd)
    conv, fc = (lab.run(name, permuted=True).chosen["loss"] for name in ("conv", "fc"))
    keep("permuted.conv", conv - lab.run("conv").chosen["loss"], "nats")
    keep("permuted.fc", fc - lab.run("fc").chosen["loss"], "nats")
    keep("permuted.lead_left", fc - conv, "nats")
    plot = vae.plot_bars(drawn, "With the pixels in place, and permuted",
                         "training loss above the floor, nats")
    return lab.figure(plot, "cifar-permuted", "Training loss above the floor with pixels in place "
                      "and permuted: conv loses much, improved some, fc and fc from PCA "
                      "next to nothing")


# ---- the appendix


def gaps(lab: Lab) -> Table:
    """What fitting each code anew gains over the encoder, nats an image."""
    n, steps = (12, 20) if lab.settings.shortened else (128, 100)
    images, seed = lab.cifar.test.images[:n], lab.settings.seed
    found = {name: amortisation_gap(lab.run(name).model, images, seed, steps) for name in THREE}
    lab.found.keep("gap.improved", found["improved"][0], "nats", lab.run("improved"))
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
    rows = [{"tried": tried, "parameters": vae.count_parameters(vae.build(job.recipe)),
             "held-out loss": losses[tried],
             "against the first": None if first is None else losses[tried] - first,
             "training loss": job.history[-1]["loss"],
             "seconds an epoch": median_seconds(job.history)} for tried, job in done.items()]
    left = len(jobs) - len(done)
    caption = f"Missing here: {left} of {len(jobs)} trials, which `python -m lab trials` trains."
    return Table(rows, {"parameters": ",", "held-out loss": ",.1f", "against the first": "+.1f",
                        "training loss": ",.1f", "seconds an epoch": ".0f"},
                 caption=caption if left else "", fold="Every trial")
