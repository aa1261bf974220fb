"""Task 1: a convolutional VAE against a fully connected one on CIFAR-10, and an improvement."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from lab import linear
from lab import samples as sampled
from lab.chapters.scale import FITTED_ON, Scale, best_gain, pca_terms
from lab.latent import against_linear, amortisation_gap, rate_and_distortion
from lab.recipes import RECIPES, TRIALS
from lab.runs import Job, Run, median_seconds
from lab.samples import blur_shown, texture
from lab.session import Lab
from lab.show import Figure, Table, finite, labelled_rows
from lab.training import (
    decode_set,
    draw_images,
    draw_prior,
    reconstruct,
)
from vae_helpers import (
    VAE,
    build,
    count_parameters,
    plot_bars,
    plot_by_seconds,
    plot_curves,
    plot_rate_distortion,
)

ABSENT = "not trained here"

# The models of the table of losses, and what the reader is told of each.
MODELS = {"linear": "linear, from PCA", "fc": "fc", "fc-wide": "fc, one layer of 768",
          "fc-cycle": "fc, one cycle of 1e-3",
          "fc-pca": "fc-pca: the same, from PCA", "conv": "conv",
          "conv-cycle": "conv, one cycle of 1e-3",
          "sprint": "sprint", "improved": "improved"}

# ---- losses


def spread(values: list[float]) -> float | None:
    """The largest less the smallest, of two values or more."""
    return max(values) - min(values) if len(values) > 1 else None


def first_epoch(run: Run, goal: float) -> int | None:
    """The first epoch whose test loss is at or below a goal."""
    return next((h["epoch"] for h in run.history if h["test_loss"] <= goal), None)


# ---- images


def quality(judge, models: dict[str, VAE], train: Tensor, test: Tensor, seed: int) -> list[dict]:
    """Real images, their mean, and each model's samples: what the judge measures, and texture."""
    mean = linear.mean_image(train).float().view(1, *train.shape[1:])

    def row(name: str, images: Tensor, found: dict, ssim: float | None = None) -> dict:
        return {"images": name, **found, "SSIM of reconstructions": ssim, **texture(images)}

    rows = [row("half of the test images", test[:len(test) // 2], judge.ends["real"]),
            row("mean image", mean, judge.ends["mean"])]
    for name, model in models.items():
        samples, some = draw_images(model, len(test), seed), test[:1000]
        likeness = sampled.ssim(reconstruct(model, some), some).mean()
        rows.append(row(name, samples, judge.measure(samples), finite(likeness)))
    return rows


# ---- the chapter


def trial_jobs(lab: Lab) -> dict[str, Job]:
    """What was tried for the improvement, decided on training images that are held out."""
    return {name: lab.job(recipe) for name, recipe in TRIALS.items()}


def trial_row(name: str, job: Job) -> dict:
    """What a trial changed, and its last epoch if it has got there."""
    row = {"tried": name, "parameters": count_parameters(build(job.recipe)), "held-out loss": None,
           "against the first": None, "training loss": None, "seconds an epoch": None,
           "note": ABSENT}
    if job.finished:
        history = job.history
        row |= {"held-out loss": history[-1]["heldout_loss"], "training loss": history[-1]["loss"],
                "seconds an epoch": median_seconds(history), "note": ""}
    return row


class Chapter:
    """Task 1: two models and an improvement, what they cost and reach, and why."""

    def __init__(self, lab: Lab, scale, theory):
        self.lab, self.theory = lab, theory
        self.scale: Scale = scale.cifar
        self.seed, self.test = lab.settings.seed, lab.cifar.test.images
        self._places: dict[str, tuple[float, float]] = {}       # by run

    # ---- trainings

    @property
    def conv(self) -> Run:
        return self.lab.train("conv")

    @property
    def fc(self) -> Run:
        return self.lab.train("fc")

    @property
    def improved(self) -> Run:
        return self.lab.train("improved")

    @property
    def three(self) -> dict[str, Run]:
        return {"conv": self.conv, "fc": self.fc, "improved": self.improved}

    def seeds_of(self, name: str) -> list[Run]:
        """The recipe's run from the first seed and those from others, as far as they are there."""
        wanted, always = self.lab.wanted, name in self.lab.DEFAULT
        first = self.lab.train(name, log=False) if always else self.lab.optional(name)
        labels = [label for label in wanted if label.startswith(f"{name}, seed ")]
        return [run for run in (first, *map(self.lab.optional, labels)) if run]

    def longer(self, name: str) -> tuple[str, Run | None]:
        """The label of a recipe's training of more epochs than its own, and its run."""
        label = next(label for label in self.lab.wanted
                     if label.startswith(f"{name}, ") and label.endswith(" epochs"))
        return label, self.lab.optional(label)

    @cached_property
    def pca(self) -> dict:
        """Test terms of PCA through a sigmoid."""
        return pca_terms(RECIPES["fc"], self.scale, self.test, self.seed)

    @cached_property
    def pca_gain(self) -> dict:
        """The same with the gain that does best on some training images."""
        some = self.lab.cifar.train.images[:FITTED_ON]
        gain = best_gain(RECIPES["fc"], self.scale, some, self.seed)
        self.lab.found.add("pca.gain", gain, note=f"chosen on {len(some):,} training images")
        return pca_terms(RECIPES["fc"], self.scale, self.test, self.seed, gain)

    def above(self, losses: list[float]) -> list[float]:
        return [loss - self.scale.test_floor for loss in losses]

    def add(self, name: str, value: float | None, unit: str = "nats", run=None, note: str = ""):
        """A finding in nats, where there is a number; that number."""
        return self.lab.found.keep(name, value, unit, run, note)

    # ---- what was tried

    def trials(self) -> Table:
        """What was tried for the improvement, on training images of which some are held out."""
        rows = [trial_row(name, job) for name, job in trial_jobs(self.lab).items()]
        first = rows[0]["held-out loss"]
        for row in rows:
            if first is not None and row["held-out loss"] is not None:
                row["against the first"] = row["held-out loss"] - first
        return Table(rows, {"held-out loss": ",.1f", "against the first": "+.1f",
                            "training loss": ",.1f", "seconds an epoch": ".0f"})

    # ---- losses

    def lines(self) -> dict[str, float]:
        """Levels above the test floor that no training reached."""
        pca, gained = self.above([self.pca["test_loss"], self.pca_gain["test_loss"]])
        return {"PCA through a sigmoid": pca, "the same with one gain": gained}

    def curves(self) -> Figure:
        """Loss above the floor and KL by epoch."""
        self.statistics()                               # its numbers stand in the prose
        curves = {name: {"epoch": run.curve("epoch"), "test": self.above(run.curve("test_loss")),
                         "training": [loss - self.scale.floor for loss in run.curve("loss")],
                         "kl": run.curve("test_kl")} for name, run in self.three.items()}
        return self.lab.figure(plot_curves(curves, self.lines()), "cifar-curves",
                               "Training and test loss above the floor, and KL, by epoch: fc ends "
                               "above the levels of PCA, conv about them, improved below")

    def losses(self) -> Table:
        """Where every model ends, beside what needs no training."""
        top = self.scale.test_mean_image
        rows = [self._row("mean image", {"test_loss": top, "test_kl": 0.0}),
                self._row("PCA through a sigmoid", self.pca),
                self._row("the same with one gain", self.pca_gain)]
        self.add("pca.above_floor", rows[1]["above the floor"], note="test")
        self.add("pca_gain.above_floor", rows[2]["above the floor"], note="test")
        found = {name: self.seeds_of(name) for name in MODELS}
        for name, runs in found.items():
            shown = MODELS.get(name, name)
            rows.append(self._row(shown, runs[0].chosen, runs) if runs else
                        self._row(f"{shown}: {ABSENT}"))
            if runs:
                self._keep(name.replace("-", "_"), runs, rows[-1])
        self._compare()
        return Table(rows, {"parameters": ",", "test loss": ",.1f", "above the floor": ".1f",
                            "other seeds": ".1f", "KL": ".1f", "against linear": ".0%",
                            "seconds": ",.0f"}, unshown=("parameters",))

    def _compare(self) -> None:
        """What start, schedule and training are worth, test nats of the first seeds."""
        found = self.lab.found
        for name, more, less in (
                ("conv.less_fc", "fc.above_floor", "conv.above_floor"),
                ("fc_pca.behind_conv", "fc_pca.above_floor", "conv_cycle.above_floor"),
                ("fc_cycle.less", "fc.above_floor", "fc_cycle.above_floor"),
                ("fc_wide.less", "fc.above_floor", "fc_wide.above_floor"),
                ("fc_pca.less_best", "fc_cycle.above_floor", "fc_pca.above_floor"),
                ("fc_pca.trained", "pca_gain.above_floor", "fc_pca.above_floor"),
                ("linear.trained", "pca_gain.above_floor", "linear.above_floor")):
            if more in found and less in found:
                self.add(name, found[more] - found[less], note=f"{more} less {less}")

    def _row(self, name: str, terms: dict | None = None, runs: list[Run] | None = None) -> dict:
        """A row of the table of losses: test terms, and what the training behind them took."""
        terms, run = terms or {}, runs[0] if runs else None
        above = self.above([r.chosen["test_loss"] for r in runs]) if runs else None
        loss = terms.get("test_loss")
        return {"model": name, "parameters": run and count_parameters(run.model),
                "epochs": terms.get("epoch"), "test loss": loss,
                "above the floor": loss and loss - self.scale.test_floor,
                "other seeds": tuple(above[1:]) if above and above[1:] else None,
                "KL": terms.get("test_kl"), "against linear": run and self.against(run),
                "seconds": run and run.seconds}

    def against(self, run: Run) -> float | None:
        """A run's squared error over that of the best linear VAE of the same KL, on test."""
        return against_linear({"run": self.place(run)}, self.curve)["run"]

    def place(self, run: Run) -> tuple[float, float]:
        """Rate and squared error on the test images, worked out once."""
        if run.hash not in self._places:
            self._places[run.hash] = rate_and_distortion(run.model, self.test, self.seed)
        return self._places[run.hash]

    def _keep(self, key: str, runs: list[Run], row: dict) -> None:
        """A row's numbers as findings."""
        run, floor = runs[0], self.scale.test_floor
        end = run.chosen
        for name, value in (("test_loss", end["test_loss"]), ("test_kl", end["test_kl"]),
                            ("above_floor", row["above the floor"]), ("loss", end["loss"]),
                            ("distortion", end["test_reconstruction"] - floor)):
            self.add(f"{key}.{name}", value, run=run)
        self.add(f"{key}.kl", end["kl"], run=run, note="training")
        self.add(f"{key}.training_above_floor", end["loss"] - self.scale.floor, run=run)
        self.add(f"{key}.seconds", row["seconds"], "s", run,
                 "at the pace of the median epoch, the spectrum counted")
        self.add(f"{key}.parameters", row["parameters"], "")
        self.add(f"rd.{key}", row["against linear"], "of the linear squared error", run)
        ends = [r.chosen["test_loss"] for r in runs]
        self.add(f"{key}.spread", spread(ends), note=f"test, {len(runs)} seeds")
        self.add(f"{key}.training_spread", spread([r.chosen["loss"] for r in runs]),
                 note=f"{len(runs)} seeds")

    def by_seconds(self) -> Figure:
        """Test loss above the floor against seconds of training, the spectrum counted."""
        shown = {name: self.lab.train(name) for name in ("conv", "fc", "improved", "sprint")}
        curves = {name: {"seconds": [run.seconds - run.pace * (len(run.history) - epoch)
                                     for epoch in run.curve("epoch")],
                         "test": self.above(run.curve("test_loss"))}
                  for name, run in shown.items()}
        goal = min(self.conv.curve("test_loss"))
        soon = first_epoch(self.conv, goal) * self.conv.pace
        self.add("sprint.sooner", soon / shown["sprint"].seconds, "times", shown["sprint"],
                 "than conv's best epoch")
        return self.lab.figure(plot_by_seconds(curves, self.lines()), "cifar-seconds",
                               "Test loss above the floor against seconds of training for conv, "
                               "fc, improved and sprint, which is below conv long before "
                               "conv is there, with the levels of PCA")

    # ---- three times as long

    def statistics(self) -> None:
        """Keeps what another seed of the convolutional model and a longer training end at."""
        _, long = self.longer("conv")
        again, floor = self.lab.optional("conv, seed 1"), self.scale.test_floor
        self.add("conv.seed_1_above_floor", again and again.chosen["test_loss"] - floor, run=again)
        self.add("conv.long_above_floor", long and long.chosen["test_loss"] - floor, run=long,
                 note="test")
        self.add("conv.long_loss", long and long.chosen["loss"], run=long, note="training")
        self.add("conv.long_epochs", long and len(long.history), "epochs", long)

    # ---- what the nats buy

    @cached_property
    def points(self) -> dict[str, tuple[float, float]]:
        """Rate and squared error on the test images."""
        more = {name: self.lab.optional(name) for name in ("fc-pca", "conv-cycle")}
        runs = self.three | {name: run for name, run in more.items() if run}
        return {name: self.place(run) for name, run in runs.items()}

    @cached_property
    def curve(self) -> linear.RateDistortion:
        """The best linear VAEs with as many latent dimensions as the models have."""
        sigma2s = torch.logspace(-2.5, 2.5, 100).tolist()
        return linear.rate_distortion(self.scale.spectrum, sigma2s, RECIPES["conv"].latent)

    def linear(self, sigma2: float) -> linear.LinearOptimum:
        return linear.linear_optimum(self.scale.spectrum, sigma2, RECIPES["conv"].latent)

    def rates(self) -> Figure:
        """Models in the plane of rate and squared error, over the best linear ones."""
        best = {name: self.linear(RECIPES[recipe].sigma2)
                for name, recipe in (("σ² = ¼", "conv"), ("σ² = ½", "p1-conv"))}
        marked = {name: (one.rate, one.distortion) for name, one in best.items()}
        drawn = plot_rate_distortion(self.curve.rate, self.curve.distortion, self.points, marked)
        return self.lab.figure(drawn, "rate-distortion", "Rate and squared error of trained models "
                               "over the curve of the best linear models: conv on it, fc above, "
                               "improved and fc-pca below")

    # ---- images

    def reconstructions(self) -> Figure:
        """The first test images, and what each model makes of them."""
        shown = self.test[:12]
        rows = {"test images": shown} | {name: reconstruct(run.model, shown)
                                         for name, run in self.three.items()}
        drawn = labelled_rows(rows, "12 test images, and what is left of them after the code",
                              zoom=2, label=95)
        return self.lab.figure(drawn, "cifar-reconstructions", "12 test images and their "
                               "reconstructions by conv, fc and improved: soft patches of the "
                               "right colours", picture=True)

    def samples(self) -> Figure:
        """The first draws of each model, from the same latent vectors."""
        z = draw_prior(32, RECIPES["conv"].latent, self.seed)
        rows = {f"{name}{' ' * i}": images for name, run in self.three.items()
                for i, images in enumerate(decode_set(run.model, z).chunk(2))}
        drawn = labelled_rows(rows, "32 samples each, the first that came", zoom=2, label=90)
        return self.lab.figure(drawn, "cifar-samples", "32 samples each of conv, fc and improved: "
                               "patches of colour with soft borders", picture=True)

    @cached_property
    def measured(self) -> dict[str, dict]:
        """Real images, their mean, and every model's samples in numbers."""
        models = {name: run.model for name, run in self.three.items()}
        rows = quality(self.lab.judge, models, self.lab.cifar.train.images, self.test, self.seed)
        return dict(zip(("real", "mean_image", *models), rows, strict=True))

    def quality(self) -> Table:
        """The same, as far as it is shown; KID, recall and coverage are of fewer images."""
        judge, rows = self.lab.judge, []
        for key, row in self.measured.items():
            run = self.three.get(key)
            self.add(f"fd.{key}", row["distance"], "", run, judge.name)
            self.add(f"blur_px.{key}", row["blur"], "pixels", run, "of real images of equal KID")
            self.add(f"blur_error.{key}", row["blur_error"], "pixels", run, "of its KID's error")
            for what in ("kid", "kid_error", "recall", "coverage"):
                self.add(f"{what}.{key}", row[what], "", run, judge.name)
            self.add(f"ssim.{key}", row["SSIM of reconstructions"], "", run, "reconstructions")
            self.add(f"texture.{key}", row["neighbour correlation"], "", run, "samples")
            self.add(f"sharpness.{key}", row["sharpness, thousandths"], "thousandths", run,
                     "samples")
            rows.append({"images": row["images"], judge.name: row["distance"], "KID": row["kid"],
                         "±": row["kid_error"], "equivalent blur, pixels": blur_shown(row)}
                        | {name: row[name] for name in (
                            "recall", "coverage", "SSIM of reconstructions",
                            "neighbour correlation", "sharpness, thousandths")})
        return Table(rows, {judge.name: ".3g", "KID": ".2f", "±": ".2f", "recall": ".2f",
                            "equivalent blur, pixels": ".1f", "coverage": ".2f",
                            "SSIM of reconstructions": ".3f", "neighbour correlation": ".3f",
                            "sharpness, thousandths": ".2f"},
                     unshown=("neighbour correlation",))

    # ---- pixels permuted

    @cached_property
    def permuted(self) -> dict[str, dict[str, Run]]:
        """The trainings with pixels in place and permuted, for models that have both."""
        moved = {name: self.lab.optional(f"{name}, permuted") for name in ("conv", "fc", "fc-pca")}
        return {name: {"in place": self.seeds_of(name)[0], "permuted": run}
                for name, run in moved.items() if run}

    def permuted_losses(self) -> dict[str, dict[str, float]]:
        """Training losses above the floor, over which running means have no say."""
        return {name: {kind: run.chosen["loss"] - self.scale.floor for kind, run in pair.items()}
                for name, pair in self.permuted.items()}

    def permuted_bars(self) -> Figure | Table:
        """Training loss with pixels in place and permuted."""
        losses = self.permuted_losses()
        if not losses:
            return self.lab.absent("conv, permuted", "fc, permuted", "fc-pca, permuted")
        for name, both in losses.items():
            self.add(f"permuted.{name.replace('-', '_')}", both["permuted"] - both["in place"],
                     note="of training loss")
        if {"conv", "fc"} <= set(losses):
            for key, kind in (("lead", "in place"), ("lead_left", "permuted")):
                self.add(f"permuted.{key}", losses["fc"][kind] - losses["conv"][kind],
                         note=f"fc less conv, training loss, pixels {kind}")
        drawn = plot_bars(losses, "What permuting the pixels costs",
                          "training loss above the floor, nats")
        return self.lab.figure(drawn, "cifar-permuted", "Training loss above the floor with "
                               "pixels in place and permuted: conv loses much, fc and fc from "
                               "PCA next to nothing")

    # ---- the encoder

    def gaps(self) -> Table:
        """What fitting each code anew gains over the encoder, nats an image."""
        (n, steps), rows = (128, 100) if self.lab.settings.full else (12, 20), []
        few = self.test[:n]
        for name, run in self.three.items():
            gain, error = amortisation_gap(run.model, few, self.seed, steps)
            self.add(f"gap.{name}", finite(gain), run=run, note=f"{len(few)} test images")
            rows.append({"model": name, "gained": gain, "±": error})
        return Table(rows, {"gained": ".1f", "±": ".1f"})
