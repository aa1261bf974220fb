"""Task 1: a convolutional VAE against a fully connected one on CIFAR-10, and an improvement."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from data import Splits, hold_out
from lab import measures
from lab.chapters.scale import FITTED_ON, Scale, best_gain, loss_row, pca_terms
from lab.examine import (
    against_linear,
    amortisation_gap,
    rate_and_distortion,
    settled,
    texture,
)
from lab.judge import blur_shown
from lab.recipes import RECIPES, TRIAL_EPOCHS, TRIALS
from lab.runs import Job, Run, median_seconds
from lab.session import Lab
from lab.show import Figure, Table, finite
from lab.training import (
    decode_set,
    draw_images,
    draw_prior,
    evaluate,
    reconstruct,
    summary,
    usable,
)
from vae_helpers import (
    VAE,
    build,
    count_parameters,
    picture,
    plot_bars,
    plot_by_seconds,
    plot_curves,
    plot_rate_distortion,
    tile,
)

SETTLED_ON = 10_000     # training images that batch normalisation's statistics are taken over
ABSENT = "not trained here"

# ---- losses


def spread(values: list[float]) -> float | None:
    """The largest less the smallest, of two values or more."""
    return max(values) - min(values) if len(values) > 1 else None


def first_epoch(run: Run, goal: float) -> int | None:
    """The first epoch whose test loss is at or below a goal."""
    return next((h["epoch"] for h in run.history if h["test_loss"] <= goal), None)


def how_soon(run: Run, other: Run) -> dict[str, float | None]:
    """When a run is at the best test loss of another, and when that one was there itself."""
    goal = min(other.curve("test_loss"))
    epoch, theirs = first_epoch(run, goal), first_epoch(other, goal)
    return {"goal": goal, "epoch": epoch, "seconds": epoch and epoch * run.pace,
            "their seconds": theirs * other.pace}


# ---- images


def quality(judge, models: dict[str, VAE], train: Tensor, test: Tensor, seed: int) -> list[dict]:
    """Real images, their mean, and each model's samples: what the judge measures, and texture."""
    mean = measures.mean_image(train).float().view(1, *train.shape[1:])

    def row(name: str, images: Tensor, found: dict, ssim: float | None = None) -> dict:
        return {"images": name, **found, "SSIM of reconstructions": ssim, **texture(images)}

    rows = [row("training images", train[:len(test)], judge.ends["real"]),
            row("their mean", mean, judge.ends["mean"])]
    for name, model in models.items():
        samples, some = draw_images(model, len(test), seed), test[:1000]
        likeness = measures.ssim(reconstruct(model, some), some).mean()
        rows.append(row(name, samples, judge.measure(samples), finite(likeness)))
    return rows


# ---- the chapter


def trial_jobs(lab: Lab) -> dict[str, Job]:
    """What was tried for the improvement, decided on training images that are held out."""
    cifar = lab.cifar
    splits = Splits(*hold_out(cifar.train), cifar.test)
    return {name: lab.job(recipe, splits, epochs=TRIAL_EPOCHS) for name, recipe in TRIALS.items()}


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

    @property
    def long(self) -> tuple[str, Run | None]:
        """The convolutional model carried on to three times its epochs."""
        label = next(label for label in self.lab.wanted if label.endswith("epochs"))
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
        curves = {name: {"epoch": run.curve("epoch"), "test": self.above(run.curve("test_loss")),
                         "training": [loss - self.scale.floor for loss in run.curve("loss")],
                         "kl": run.curve("test_kl")} for name, run in self.three.items()}
        lines = {"mean image": self.scale.mean_image, **self.lines()}
        return self.lab.figure(plot_curves(curves, lines), "cifar-curves",
                               "Training and test loss above the floor, and KL, by epoch of conv, "
                               "fc and improved, with the levels of the mean image and of PCA")

    def losses(self) -> Table:
        """Where every model ends, beside what needs no training."""
        scale, top = self.scale, self.scale.test_mean_image
        mean = {"test_loss": top, "test_kl": 0.0, "test_reconstruction": top}
        rows = [loss_row("mean image", mean, scale),
                loss_row("PCA through a sigmoid", self.pca, scale),
                loss_row("the same with one gain", self.pca_gain, scale)]
        self.add("pca.above_floor", rows[1]["above the floor"], note="test")
        self.add("pca_gain.above_floor", rows[2]["above the floor"], note="test")
        wide = self.lab.optional("fc-wide")
        for name, run in (self.three | ({"fc-wide": wide} if wide else {})).items():
            rows.append(loss_row(name, run.chosen, scale, run))
            self._keep(name.replace("-", "_"), run, rows[-1])
        behind = rows[4]["above the floor"]
        self.add("fc.behind_pca", behind - rows[1]["above the floor"], run=self.fc, note="test")
        self.add("fc.behind_pca_gain", behind - rows[2]["above the floor"], run=self.fc,
                 note="test")
        return Table(rows, {"parameters": ",", "training loss": ",.1f", "test loss": ",.1f",
                            "above the floor": ".1f", "KL": ".1f", "distortion": ".1f",
                            "share of the way": ".0%", "images/s": ",.0f", "seconds": ",.0f"})

    def _keep(self, key: str, run: Run, row: dict) -> None:
        """A row's numbers as findings."""
        names = {"test_loss": "test loss", "above_floor": "above the floor", "test_kl": "KL",
                 "distortion": "distortion", "loss": "training loss"}
        for name, column in names.items():
            self.add(f"{key}.{name}", row[column], run=run)
        self.add(f"{key}.kl", run.chosen["kl"], run=run, note="training")
        self.add(f"{key}.training_above_floor", row["training loss"] - self.scale.floor, run=run)
        self.add(f"{key}.way", row["share of the way"], "", run, "from mean image to floor, test")
        self.add(f"{key}.seconds", row["seconds"], "s", run, "at the pace of the median epoch")
        self.add(f"{key}.parameters", row["parameters"], "")

    def by_seconds(self) -> Figure:
        """Test loss above the floor against seconds of training."""
        curves = {name: {"seconds": [run.pace * epoch for epoch in run.curve("epoch")],
                         "test": self.above(run.curve("test_loss"))}
                  for name, run in self.three.items()}
        return self.lab.figure(plot_by_seconds(curves, self.lines()), "cifar-seconds",
                               "Test loss above the floor against seconds of training for conv, "
                               "fc and improved, with the levels of PCA")

    def passings(self) -> Table:
        """When each model passes the best test loss of each other one, and when that was there."""
        rows = []
        for name, run in self.three.items():
            for other, theirs in self.three.items():
                if other != name:
                    soon = how_soon(run, theirs)
                    rows.append({"model": name, "at the best loss of": other,
                                 "above the floor": soon["goal"] - self.scale.test_floor,
                                 "in epoch": soon["epoch"], "after seconds": soon["seconds"],
                                 "the other after": soon["their seconds"],
                                 "note": "" if soon["epoch"] else "not reached"})
        self.add("improved.seconds_over_conv", self.improved.seconds / self.conv.seconds, "times",
                 self.improved, "the spectrum not counted")
        self.add("improved.passes_conv", how_soon(self.improved, self.conv)["seconds"], "s",
                 self.improved, "when it is at conv's best test loss")
        return Table(rows, {"above the floor": ".1f", "after seconds": ",.0f",
                            "the other after": ",.0f"})

    def seeds(self) -> Table:
        """Test loss above the floor from other seeds, and after three times the epochs."""
        rows, test_floor = [], self.scale.test_floor
        wanted = {"conv": ["conv, seed 1"], "fc": ["fc, seed 1", "fc, seed 2"], "improved": []}
        for name, labels in wanted.items():
            more = [self.lab.optional(label) for label in labels]
            runs = [self.three[name], *(run for run in more if run)]
            test = self.above([run.chosen["test_loss"] for run in runs])
            apart = spread([run.chosen["loss"] for run in runs])
            missing = [label for label, run in zip(labels, more, strict=True) if run is None]
            self.add(f"{name}.spread", spread(test), note=f"test, {len(runs)} seeds")
            self.add(f"{name}.training_spread", apart, note=f"{len(runs)} seeds")
            rows.append({"model": name, "epochs": len(runs[0].history), "seeds": len(runs),
                         "lowest": min(test), "highest": max(test), "spread": spread(test),
                         "spread of training loss": apart,
                         "note": "; ".join(f"{label}: {ABSENT}" for label in missing)})
        label, run = self.long
        end = self.add("conv.long_above_floor", run and run.chosen["test_loss"] - test_floor,
                       run=run, note="test")
        self.add("conv.long_loss", run and run.chosen["loss"], run=run, note="training")
        rows.append({"model": label, "epochs": run and len(run.history), "seeds": run and 1,
                     "lowest": end, "highest": end, "spread": None,
                     "spread of training loss": None, "note": "" if run else ABSENT})
        return Table(rows, dict.fromkeys(("lowest", "highest", "spread",
                                          "spread of training loss"), ".1f"))

    # ---- batch normalisation

    @cached_property
    def settled(self) -> VAE:
        """The convolutional model with settled statistics."""
        return settled(self.conv, self.lab.cifar.train.images[:SETTLED_ON], self.seed)

    def statistics(self) -> Table:
        """Test loss of the convolutional models with the last steps' statistics, and settled."""
        label, long = self.long
        runs = {"conv": self.conv, "conv, seed 1": self.lab.optional("conv, seed 1"), label: long}
        rows, keys = [], ("conv.settled", "conv.seed_1_settled", "conv.long_settled")
        for (name, run), key in zip(runs.items(), keys, strict=True):
            before = run and run.chosen["test_loss"] - self.scale.test_floor
            after = self.add(f"{key}_above_floor", run and self._settled_loss(name, run), run=run,
                             note="test")
            rows.append({"model": name, "with the last steps' statistics": before,
                         "settled": after, "less": run and before - after,
                         "note": "" if run else ABSENT})
        both = [row["settled"] for row in rows[:2] if row["settled"] is not None]
        self.add("conv.settled_spread", spread(both), note="test, 2 seeds")
        return Table(rows, {"with the last steps' statistics": ".1f", "settled": ".1f",
                            "less": ".1f"})

    def _settled_loss(self, name: str, run: Run) -> float:
        """Test loss above the floor with settled statistics."""
        some = self.lab.cifar.train.images[:SETTLED_ON]
        model = self.settled if name == "conv" else settled(run, some, self.seed)
        device = next(model.parameters()).device
        terms = evaluate(model, self.test, precision=usable(run.precision, device), seed=self.seed)
        return summary(run.recipe, terms)["loss"] - self.scale.test_floor

    # ---- what the nats buy

    @cached_property
    def points(self) -> dict[str, tuple[float, float]]:
        """Rate and squared error on the test images."""
        runs = self.three | {"small": self.theory.demo["VAE"],
                             "small, β = 0.1": self.theory.demo["β = 0.1"]}
        return {name: rate_and_distortion(run.model, self.test, self.seed)
                for name, run in runs.items()}

    @cached_property
    def curve(self) -> measures.RateDistortion:
        """The best linear VAEs with as many latent dimensions as the models have."""
        sigma2s = torch.logspace(-2.5, 2.5, 100).tolist()
        return measures.rate_distortion(self.scale.spectrum, sigma2s, RECIPES["conv"].latent)

    def linear(self, sigma2: float) -> measures.LinearOptimum:
        return measures.linear_optimum(self.scale.spectrum, sigma2, RECIPES["conv"].latent)

    def rates(self) -> Figure:
        """Models in the plane of rate and squared error, over the best linear ones."""
        best = {name: self.linear(RECIPES[recipe].sigma2)
                for name, recipe in (("σ² = ¼", "conv"), ("σ² = ½", "p1-conv"))}
        marked = {name: (one.rate, one.distortion) for name, one in best.items()}
        drawn = plot_rate_distortion(self.curve.rate, self.curve.distortion, self.points, marked)
        return self.lab.figure(drawn, "rate-distortion", "Rate and squared error of five trained "
                               "models over the curve of the best linear models")

    def shares(self) -> Table:
        """Squared error beside that of the best linear VAE at the same rate."""
        shares, rows = against_linear(self.points, self.curve), []
        keys = dict(zip(self.points, ("conv", "fc", "improved", "small", "small_sharp"),
                        strict=True))
        for name, (rate, error) in self.points.items():
            share = self.add(f"rd.{keys[name]}", shares[name], "of the linear squared error")
            rows.append({"model": name, "rate, nats": rate, "squared error": error,
                         "best linear one there": share and error / share,
                         "share of it": share})
        return Table(rows, {"rate, nats": ".1f", "squared error": ".2f", "share of it": ".0%",
                            "best linear one there": ".2f"})

    def variance(self) -> Table:
        """The variance that cross-entropy stands for, and what a linear model spends there."""
        bound = self.linear(RECIPES["conv"].sigma2)
        rows = [{"variance of": "the bound", "σ²": bound.sigma2, "linear KL": bound.rate,
                 "linear directions": bound.active, "the model's KL": None}]
        for name, run in self.three.items():
            sigma2 = measures.bernoulli_sigma2(reconstruct(run.model, self.test))
            best = self.linear(sigma2)
            rows.append({"variance of": f"{name}'s reconstructions", "σ²": sigma2,
                         "linear KL": best.rate, "linear directions": best.active,
                         "the model's KL": run.chosen["test_kl"]})
        conv = rows[1]
        self.add("bce.variance", conv["σ²"], "", self.conv, "mean of x̂(1 − x̂)")
        self.add("bce.linear_rate", conv["linear KL"], note="at that variance")
        self.add("bce.linear_active", conv["linear directions"], "directions",
                 note="at that variance")
        return Table(rows, {"σ²": ".3f", "linear KL": ".1f", "the model's KL": ".1f"})

    # ---- images

    def reconstructions(self) -> Figure:
        """The first test images, and what each model makes of them."""
        shown = self.test[:24]
        rows = {"test images": shown} | {name: reconstruct(run.model, shown)
                                         for name, run in self.three.items()}
        sheets = {name: tile(images, 12) for name, images in rows.items()}
        return self.lab.figure(picture(sheets, "24 test images, and what is left of them after "
                                       "the code", across=False), "cifar-reconstructions",
                               "24 test images and their reconstructions by conv, fc and improved",
                               picture=True)

    def samples(self) -> Figure:
        """The first draws of each model, from the same latent vectors."""
        z = draw_prior(64, RECIPES["conv"].latent, self.seed)
        sheets = {name: tile(decode_set(run.model, z), 16) for name, run in self.three.items()}
        return self.lab.figure(picture(sheets, "64 samples each, the first that came",
                                       across=False), "cifar-samples",
                               "64 samples each of conv, fc and improved: patches of colour with "
                               "soft borders", picture=True)

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
                            "sharpness, thousandths": ".2f"})

    # ---- pixels permuted

    @cached_property
    def permuted(self) -> dict[str, dict[str, Run]]:
        """The trainings with pixels in place and permuted, for models that have both."""
        moved = {name: self.lab.optional(f"{name}, permuted") for name in ("conv", "fc")}
        return {name: {"in place": self.three[name], "permuted": run}
                for name, run in moved.items() if run}

    def permuted_losses(self) -> dict[str, dict[str, float]]:
        """Training losses above the floor, over which running means have no say."""
        return {name: {kind: run.chosen["loss"] - self.scale.floor for kind, run in pair.items()}
                for name, pair in self.permuted.items()}

    def permuted_bars(self) -> Figure | Table:
        """Training loss with pixels in place and permuted."""
        if not self.permuted:
            return self.lab.absent("conv, permuted", "fc, permuted")
        drawn = plot_bars(self.permuted_losses(), "What permuting the pixels costs",
                          "training loss above the floor, nats")
        return self.lab.figure(drawn, "cifar-permuted", "Training loss above the floor with "
                               "pixels in place and permuted, for conv and fc")

    def permuting(self) -> Table:
        """What permuting the pixels costs each model, and what is left of the lead."""
        losses, rows = self.permuted_losses(), []
        for name in ("conv", "fc"):
            both = losses.get(name, {"in place": self.three[name].chosen["loss"] - self.scale.floor,
                                     "permuted": None})
            cost = both["permuted"] and both["permuted"] - both["in place"]
            self.add(f"permuted.{name}", cost, note="of training loss")
            rows.append({"training loss above the floor": name, **both, "cost": cost,
                         "note": "" if name in losses else ABSENT})
        conv, fc = rows
        lead = fc["in place"] - conv["in place"]
        whole = len(losses) == 2
        left = fc["permuted"] - conv["permuted"] if whole else None
        self.add("permuted.lead", lead, note="fc less conv, training loss")
        self.add("permuted.lead_left", left, note="the same, pixels permuted")
        rows.append({"training loss above the floor": "fc less conv", "in place": lead,
                     "permuted": left, "cost": left - lead if whole else None,
                     "note": "" if whole else ABSENT})
        return Table(rows, {"in place": ".1f", "permuted": ".1f", "cost": "+.1f"})

    # ---- the encoder

    def gaps(self) -> Table:
        """What fitting each code anew gains over the encoder, nats an image."""
        (n, steps), rows = (128, 100) if self.lab.settings.full else (12, 20), []
        few = self.test[:n]
        models = {"conv, statistics as trained": ("conv_as_trained", self.conv, self.conv.model),
                  "conv, settled": ("conv", self.conv, self.settled),
                  "fc": ("fc", self.fc, self.fc.model),
                  "improved": ("improved", self.improved, self.improved.model)}
        for name, (key, run, model) in models.items():
            device = next(model.parameters()).device
            gain, error = amortisation_gap(model, few, self.seed, steps,
                                           precision=usable(run.precision, device))
            self.add(f"gap.{key}", finite(gain), run=run, note=f"{len(few)} test images")
            rows.append({"model": name, "gained": gain, "±": error})
        return Table(rows, {"gained": ".1f", "±": ".1f"})
