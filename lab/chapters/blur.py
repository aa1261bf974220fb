"""Blur is a chosen number: one network under four decoder variances, as probabilities and seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lab import density, samples
from lab import latent as latents
from lab import linear as pca
from lab.linear import pca_scores
from lab.recipes import RECIPES
from lab.runs import Run
from lab.session import Lab
from lab.show import Figure, Table, finite, labelled_rows
from lab.training import batch_of, draw_images, generator, reconstruct
from vae_helpers import (
    VAE,
    as_pixels,
    kl_divergence,
    to_pixels,
)

# How findings call each training, its label in RECIPES, and its variance in words.
SWEEP = {"2": ("sigma-2", "½"), "8": ("sigma-8", "⅛"), "32": ("sigma-32", "1/32"),
         "learned": ("sigma-learned", "learned")}
WAYS = {"levels": density.level_nats, "density": density.density_nats, "kept": density.kept_nats}
# What is measured of samples: how findings call it, its column and its unit.
MEASURED = {"sharpness": ("samples", "drawn: sharpness", "of real"),
            "kid": ("kid", "drawn: KID", ""),
            "blur": ("px", "drawn: equivalent blur, pixels", "pixels"),
            "recall": ("recall", "drawn: recall", "")}
IMAGES = 2_000          # test images that are read
SAMPLES = 2_000         # of each distribution

# ---- a model as a distribution


@dataclass(frozen=True)
class Reading:
    """Test images through a VAE with a Gaussian decoder: one draw from each posterior, decoded."""

    sigma2: float           # the decoder's variance, in squared pixels of [0, 1]
    x_hat: Tensor           # (N, 3, H, W), means of p(x|z), not confined to [0, 1]
    kl: Tensor              # (N, d)
    logvar: Tensor          # (N, d)

    def nats(self, images: Tensor, way: str) -> Tensor:
        """The negative ELBO of each image, its likelihood read in one of three ways, (N,)."""
        given = density.in_parts(WAYS[way], images, self.x_hat, math.sqrt(self.sigma2))
        return given + self.kl.double().sum(1)

    def error(self, images: Tensor) -> float:
        """The mean squared error of a value of a pixel."""
        return (as_pixels(images) - self.x_hat).double().square().mean().item()


def sigma2_of(model: VAE) -> float:
    """The variance of a Gaussian decoder, given or learned."""
    if model.recipe.sigma is not None:
        return model.recipe.sigma ** 2
    return math.exp(2 * model.log_sigma.item())


@torch.no_grad()
def read(model: VAE, images: Tensor, seed: int, batch: int = 500) -> Reading:
    """uint8 images through a model, with the draws of `lab.training.evaluate`."""
    device, parts = next(model.parameters()).device, []
    noise = generator(device, seed, "evaluation")
    for part in images.split(batch):
        eps = torch.randn(len(part), model.recipe.latent, generator=noise, device=device)
        logits, mu, logvar = model(batch_of(model.recipe, part, slice(None), device), eps)
        parts.append((to_pixels(model.recipe, logits), kl_divergence(mu, logvar), logvar))
    return Reading(sigma2_of(model), *(torch.cat(each).float().cpu()
                                       for each in zip(*parts, strict=True)))


def read_linear(linear: pca.LinearVAE, sigma2: float, images: Tensor, seed: int) -> Reading:
    """uint8 images through a linear VAE, one draw each."""
    d = images.flatten(1).double() / 255 - linear.mean
    mu, logvar = d @ linear.encoder.T, linear.variance.log().expand(len(d), -1)
    eps = torch.randn(mu.shape, generator=generator("cpu", seed, "evaluation"))
    x_hat = linear.mean + (mu + (logvar / 2).exp() * eps) @ linear.decoder.T
    return Reading(sigma2, x_hat.view(images.shape), kl_divergence(mu, logvar), logvar)


def closed_nats(known: pca.Spectrum, sigma2: float, latent: int) -> float:
    """-ELBO of the linear optimum, the mean over the images of the spectrum, as a density."""
    best = pca.linear_optimum(known, sigma2, latent)
    normal = len(known.mean) / 2 * math.log(2 * math.pi * sigma2 * 255 ** 2)
    return best.loss(1 / (2 * sigma2)) + normal


def through_components(known: pca.Spectrum, images: Tensor, n: int) -> Tensor:
    """uint8 images with nothing but their first n principal components, in [0, 1]."""
    kept = known.mean.float() + pca_scores(known, images, n) @ known.components[:n].float()
    return kept.clamp(0, 1).view(images.shape)


# ---- the chapter


class Chapter:
    """The sweep over the decoder's variance; `scale` is the chapter of that name.

    `judge` measures samples; left out, it is the session's.
    """

    def __init__(self, lab: Lab, scale, judge=None):
        self.lab, self.scale, self.keep = lab, scale, lab.found.keep
        self.seed, self.images = lab.settings.seed, lab.cifar.test.images[:IMAGES]
        self.values, self.judge = self.images[0].numel(), judge

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The trainings of the sweep that are there."""
        runs = {key: self.lab.optional(label) for key, (label, _) in SWEEP.items()}
        return {key: run for key, run in runs.items() if run}

    @property
    def absent(self) -> Table:
        """What stands in the place of a picture of trainings that are missing."""
        return self.lab.absent(*(label for label, _ in SWEEP.values()))

    @cached_property
    def readings(self) -> dict[str, Reading]:
        """The test images through every model."""
        return {key: read(run.model, self.images, self.seed) for key, run in self.runs.items()}

    @cached_property
    def linear(self) -> dict[str, tuple[float, pca.LinearVAE]]:
        """The best linear VAEs at three variances, the last the best of all."""
        known, latent = self.scale.cifar.spectrum, RECIPES["sigma-2"].latent
        best = density.learned_sigma2(known, latent)
        return {key: (sigma2, pca.linear_vae_parameters(known, sigma2, latent))
                for key, sigma2 in {"2": 0.5, "4": 0.25, "learned": best}.items()}

    @cached_property
    def full(self) -> density.FullGaussian:
        """The Gaussian with the training images' mean and covariance."""
        return density.full_gaussian(self.lab.cifar.train.images)

    @cached_property
    def samples(self) -> dict[str, Tensor]:
        """Decoded draws of every model, draws of the Gaussian over whole images, real images."""
        n = min(SAMPLES, len(self.lab.cifar.test))
        drawn = {key: draw_images(run.model, n, self.seed) for key, run in self.runs.items()}
        whole = self.full.sample(n, generator("cpu", self.seed, "full Gaussian"))
        return drawn | {"full": whole.clamp(0, 1).float().view(n, *self.images.shape[1:]),
                        "real": as_pixels(self.lab.cifar.train.images[:n])}

    # ---- as distributions

    def _bits(self, key: str, nats: Tensor, run: Run | None = None) -> float | None:
        return self.keep(f"blur.{key}", density.bits(nats, self.values)[0], "bits", run,
                         f"{len(nats):,} test images")

    def _distribution(self, name: str, key: str, reading: Reading, run: Run | None = None) -> dict:
        """A row for a VAE with a Gaussian decoder; `key` is the end of its findings' names."""
        nats, part = reading.nats(self.images, "levels"), "" if run else "linear_"
        numbers = {"sigma2": (reading.sigma2, "squared pixels"),
                   "error": (reading.error(self.images), "squared pixels"),
                   "kl": (reading.kl.double().sum(1).mean(), "nats"),
                   "dof": (latents.degrees_of_freedom(reading.logvar), "dimensions"),
                   "active": (latents.active_units(reading.kl), "dimensions")}
        sigma2, error, kl, dof, active = (
            self.keep(f"blur.{part}{what}_{key}", value, unit, run)
            for what, (value, unit) in numbers.items())
        return {"distribution": name, "σ²": sigma2, "mean squared error": error, "KL": kl,
                "active": active, "degrees of freedom": dof,
                "bits, 256 levels": self._bits(f"{part}bits_{key}", nats, run),
                "±": finite(density.bits(nats, self.values)[1]),
                "bits, as a density": self._bits(
                    f"{part}density_{key}", reading.nats(self.images, "density"), run),
                "bits, kept to [0, 1]": self._bits(
                    f"{part}cut_{key}", reading.nats(self.images, "kept"), run),
                "bits, exact": None}

    def _linear_row(self, key: str) -> dict:
        """A row for a linear VAE, whose exact likelihood is known."""
        sigma2, model = self.linear[key]
        word = {"2": "½", "4": "¼", "learned": "the best"}[key]
        reading = read_linear(model, sigma2, self.images, self.seed)
        closed = closed_nats(self.scale.cifar.spectrum, sigma2, len(model.variance))
        self.keep(f"blur.linear_closed_{key}", closed / (self.values * math.log(2)), "bits",
                  note="as a density, training images, closed form")
        exact = density.linear_nats(self.images, model, sigma2)
        return self._distribution(f"linear VAE, σ² = {word}", key, reading) | {
            "bits, exact": self._bits(f"linear_exact_{key}", exact)}

    @cached_property
    def _distributions(self) -> list[dict]:
        """A row for every distribution, its numbers kept as findings."""
        rows = [self._distribution(f"VAE, {name_of(key)}", key, self.readings[key], run)
                for key, run in self.runs.items()]
        rows += [self._linear_row(key) for key in self.linear]
        blank = dict.fromkeys(rows[0])
        rows += self._not_trained(blank, "distribution")
        fitted = self.full.fitted_nats / (self.values * math.log(2))
        self.keep("blur.full_covariance_fitted", fitted, "bits", note="training images")
        whole = self._bits("full_covariance_bits", self.full.nats(self.images))
        rows.append(blank | {"distribution": "Gaussian with full covariance", "bits, exact": whole})
        others = {"cross-entropy, normalised": self.lab.found.get("q1.bits"), "uniform": 8.0}
        return rows + [blank | {"distribution": name, "bits, 256 levels": bits}
                       for name, bits in others.items()]

    def _not_trained(self, blank: dict, head: str) -> list[dict]:
        return [blank | {head: f"VAE, {name_of(key)}: not trained here"}
                for key in SWEEP if key not in self.runs]

    def sigmas(self) -> Table:
        """What each decoder variance makes of the loss as a distribution of grey levels."""
        return Table(self._distributions, {
            "σ²": ".4f", "mean squared error": ".4f", "KL": ".1f", "degrees of freedom": ".1f",
            "bits, 256 levels": ".3f", "±": ".3f", "bits, as a density": ".3f",
            "bits, kept to [0, 1]": ".3f", "bits, exact": ".3f"},
                     unshown=("active", "±"))

    # ---- as pictures

    @cached_property
    def reconstructions(self) -> dict[str, tuple[str, Tensor, Run | None]]:
        """Decoded posterior means of every model, the same layers without noise, and PCA's."""
        without = self.lab.train("small-ae", log=False)
        latent = RECIPES["sigma-2"].latent
        made = {key: (f"VAE, {name_of(key)}", reconstruct(run.model, self.images), run)
                for key, run in self.runs.items()}
        pca = through_components(self.scale.cifar.spectrum, self.images, latent)
        return made | {"ae": ("autoencoder, the same layers", reconstruct(
            without.model, self.images), without), "pca": (f"{latent} components", pca, None)}

    @cached_property
    def _appearances(self) -> list[dict]:
        """A row for everything that is looked at, its numbers kept as findings."""
        real, rows = samples.sharpness(self.images).mean().item(), []
        for key, (name, made, run) in self.reconstructions.items():
            kept = samples.sharpness(made).mean() / real
            alike = samples.ssim(made, self.images).mean()
            far = self._measured(made)["blur"]
            rows.append({"images": name,
                         "reconstructed: sharpness": self.keep(
                             f"blur.kept_{key}", kept, "of real", run),
                         "reconstructed: SSIM": self.keep(f"blur.ssim_{key}", alike, "", run),
                         "reconstructed: equivalent blur, pixels": self.keep(
                             f"blur.px_kept_{key}", far, "pixels", run),
                         **self._sampled(key, real, run)})
        blank = dict.fromkeys(rows[0])
        rows += self._not_trained(blank, "images")
        others = {"full": "Gaussian with full covariance", "real": "training images"}
        return rows + [blank | {"images": name} | self._sampled(key, real)
                       for key, name in others.items()]

    def looks(self) -> Table:
        """How sharp reconstructions and samples are, as a share of real images."""
        return Table(self._appearances, {
            "reconstructed: sharpness": ".0%", "reconstructed: SSIM": ".3f",
            "reconstructed: equivalent blur, pixels": ".2f", "drawn: sharpness": ".0%",
            "drawn: KID": ".3f", "drawn: equivalent blur, pixels": ".2f", "drawn: recall": ".2f"})

    def _measured(self, images: Tensor) -> dict:
        return (self.judge or self.lab.judge).measure(images)

    def _sampled(self, key: str, real: float, run: Run | None = None) -> dict:
        """What is measured of a distribution's samples; gaps where it has none."""
        if key not in self.samples:
            return dict.fromkeys(head for _, head, _ in MEASURED.values())
        found = self._measured(self.samples[key])
        found = found | {"sharpness": samples.sharpness(self.samples[key]).mean() / real}
        return {head: self.keep(f"blur.{name}_{key}", found[what], unit, run)
                for what, (name, head, unit) in MEASURED.items()}

    def pictures(self) -> Figure | Table:
        """Test images decoded at the largest variance and the learned one, draws from the prior,
        the same with the decoder's noise, and draws of the Gaussian over whole images."""
        if not self.runs:
            return self.absent
        self.looks()                                    # its numbers stand in the prose
        ends = [key for key in ("2", "learned") if key in self.runs]
        drawn = {key: self.samples[key][:7] for key in ends}
        eps = torch.randn(drawn[ends[0]].shape,
                          generator=generator("cpu", self.seed, "decoder noise"))
        rows = {"test images": [as_pixels(self.images[:7])] * len(ends),
                "decoded": [self.reconstructions[key][1][:7] for key in ends],
                "drawn": [drawn[key] for key in ends],
                "drawn, with\nits noise": [drawn[key] + self.readings[key].sigma2 ** 0.5 * eps
                                           for key in ends],
                "not a VAE: full\ncovariance": [self.samples["full"][:7 * len(ends)]]}
        return self.lab.figure(
            labelled_rows({name: torch.cat(parts) for name, parts in rows.items()},
                          "Two decoder variances of one network, and a Gaussian without latent "
                          "variables", [name_of(key) for key in ends], zoom=2, label=110,
                          blocks=len(ends)), "blur",
            "Seven test images; their reconstructions, sharper with the learned variance; samples, "
            "and the same with the decoder's own noise, nothing but noise at variance ½; coloured "
            "clouds of a Gaussian with full covariance", picture=True)


def name_of(key: str) -> str:
    """A variance in words: σ² = ⅛, or σ² learned."""
    word = SWEEP[key][1]
    return f"σ² {word}" if key == "learned" else f"σ² = {word}"
