"""What a trained model is asked: numbers from a model and images, which no training reports."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lab import measures
from lab.eigen import blocks
from lab.measures import RateDistortion, Spectrum, mean_and_error
from lab.runs import Run
from lab.show import finite
from lab.training import autocast, batch_of, decode_set, encode_set, generator, usable
from vae_helpers import VAE, as_pixels, elbo_terms, kl_divergence, reconstruction_error

# ---- images


def texture(images: Tensor) -> dict[str, float | None]:
    """Neighbour correlation and sharpness, means over images; None for images without texture."""
    return {"neighbour correlation": finite(measures.neighbour_correlation(images).mean()),
            "sharpness, thousandths": finite(1e3 * measures.sharpness(images).mean())}


def ratio_of_means(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The mean of a (n,) over that of b, of the same images, and its standard error."""
    ratio = (a.mean() / b.mean()).item()
    _, error = measures.mean_and_error(a - ratio * b)
    return ratio, error / b.mean().item()


# ---- batch normalisation


@torch.no_grad()
def settled(run: Run, images: Tensor, seed: int = 0, batch: int = 500) -> VAE:
    """A copy whose batch normalisation has means and variances taken over all these images.

    As trained it has those of the last steps, weighted towards the very last.
    """
    model = copy.deepcopy(run.model).train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None                       # a plain mean over the batches
    device = next(model.parameters()).device
    noise = generator(device, seed, "settled")
    for part in images.split(batch):
        x = batch_of(run.recipe, part, slice(None), device)
        eps = torch.randn(len(x), run.recipe.latent, generator=noise, device=device)
        with autocast(device, usable(run.precision, device)):
            model(x, eps)
    return model.eval()


# ---- what the nats buy


@torch.no_grad()
def rate_and_distortion(model: VAE, images: Tensor, seed: int) -> tuple[float, float]:
    """KL, and the squared error of decoded draws from the posterior, of uint8 images."""
    mu, logvar = encode_set(model, images)
    eps = torch.randn(mu.shape, generator=generator("cpu", seed, "rate and distortion"))
    drawn = decode_set(model, model.reparameterize(mu, logvar, eps))
    error = (as_pixels(images) - drawn).square().flatten(1).sum(1).mean().item()
    return kl_divergence(mu, logvar).sum(1).mean().item(), error


def against_linear(points: dict[str, tuple[float, float]],
                   curve: RateDistortion) -> dict[str, float | None]:
    """Squared error of points (rate, squared error) as a share of the linear curve's there."""
    rising = curve.rate.argsort()
    rate, distortion = curve.rate[rising].numpy(), curve.distortion[rising].numpy()

    def share(at: float, error: float) -> float | None:
        there = float(np.interp(at, rate, distortion, left=math.nan, right=math.nan))
        return error / there if there > 0 else None     # None beyond the curve's ends

    return {name: share(*point) for name, point in points.items()}


def pca_scores(spectrum: Spectrum, images: Tensor, n: int) -> Tensor:
    """The first n coordinates (N, n) of images on the axes of their pixels' covariance."""
    axes, mean = spectrum.components[:n].float(), spectrum.mean.float()
    return torch.cat([(as_pixels(part).flatten(1) - mean) @ axes.T for part in images.split(500)])


class Scores(NamedTuple):
    """All that a linear model of known axes needs to be judged on some images."""

    moments: Tensor     # (k,), the mean squared score on each axis, in float64
    total: float        # the mean squared distance from the mean image


def scores_of(known: Spectrum, images: Tensor) -> Scores:
    """The scores of images on the axes of a spectrum, which may be that of other images."""
    mean, axes = known.mean.float(), known.components.T.float()
    moments, total = torch.zeros(axes.shape[1], dtype=torch.float64), 0.0
    for block in blocks(images):
        x = as_pixels(block) - mean                                 # (B, D)
        moments += (x @ axes).double().square().sum(0)
        total += x.square().sum(1).double().sum().item()
    return Scores(moments / len(images), total / len(images))


def linear_on(known: Spectrum, scores: Scores, sigma2: float, latent: int) -> tuple[float, float]:
    """KL and squared error of the linear optimum of a spectrum on the images of these scores.

    On the images that the spectrum is of, they are those of `linear_optimum`.
    """
    best = measures.linear_optimum(known, sigma2, latent)
    values, squares = known.eigenvalues[:best.active], scores.moments[:best.active]
    spent = (values - sigma2) / values ** 2 * squares + best.variances - 1 - best.variances.log()
    lost = (sigma2 / values) ** 2 * squares + (values - sigma2) * best.variances
    return spent.sum().item() / 2, scores.total + (lost - squares).sum().item()


# ---- what a dimension moves


@torch.no_grad()
def stretch(model: VAE, images: Tensor) -> float:
    """The squared error on [-1, 1] over that of the same decodings on [0, 1], of a tanh decoder:
    as tanh(a) = 2 sigmoid(2a) - 1, a sigmoid makes them from twice the logits."""
    device = next(model.parameters()).device
    x = batch_of(model.recipe, images, slice(None), device)
    logits = model.decode(model.encode(x)[0]).float()
    there = reconstruction_error(model.recipe, logits, x)
    here = reconstruction_error(model.recipe.but(link="sigmoid"), 2 * logits, x)
    return (there.mean() / here.mean()).item()


def traverse(model: VAE, mu: Tensor, dim: int, reach: float, n: int = 7) -> Tensor:
    """Decodings of a code (1, d) one of whose dimensions goes from -reach to reach."""
    z = mu.repeat(n, 1)
    z[:, dim] = torch.linspace(-reach, reach, n)
    return decode_set(model, z)


def largest_move(model: VAE, mu: Tensor, dim: int) -> float:
    """The grey levels by which the pixel that moves most does so along a dimension, from -3 to 3,
    at the mean code."""
    frames = traverse(model, mu.mean(0, keepdim=True), dim, 3.0)
    return 255 * (frames.amax(0) - frames.amin(0)).max().item()


def linear_move(spectrum: Spectrum, sigma2: float) -> float:
    """The same for the first dimension of the linear optimum; 0 where it is collapsed."""
    first = (spectrum.eigenvalues[0] - sigma2).clamp(min=0).sqrt()
    return 255 * 6 * (first * spectrum.components[0].abs().max()).item()


# ---- what the encoder leaves


class Recoded:
    """A model whose posteriors are given instead of encoded; the one objective takes it."""

    def __init__(self, model: VAE, mu: Tensor, logvar: Tensor):
        self.model, self.mu, self.logvar, self.recipe = model, mu, logvar, model.recipe
        self.log_sigma = getattr(model, "log_sigma", None)

    def __call__(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.model.reparameterize(self.mu, self.logvar, eps)
        return self.model.decode(z), self.mu, self.logvar


def amortisation_gap(model: VAE, images: Tensor, seed: int, steps: int = 100,
                     precision: str = "fp32") -> tuple[float, float]:
    """Nats that fitting mu and logvar to each image gains over the encoder; standard error."""
    model = copy.deepcopy(model).requires_grad_(False)
    device = next(model.parameters()).device
    x = batch_of(model.recipe, images, slice(None), device)
    draw = generator(device, seed, "amortisation")
    start = tuple(t.float() for t in model.encode(x))
    mu, logvar = (t.clone().requires_grad_() for t in start)
    fresh = torch.randn(8, *mu.shape, generator=draw, device=device)

    def loss(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
        with autocast(device, precision):
            return elbo_terms(Recoded(model, mu, logvar), x, eps).loss(model.recipe.beta)

    optimizer = torch.optim.Adam([mu, logvar], lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        eps = torch.randn(mu.shape, generator=draw, device=device)
        mu.grad, logvar.grad = torch.autograd.grad(loss(mu, logvar, eps).sum(), (mu, logvar))
        optimizer.step()
    with torch.no_grad():
        gained = torch.stack([loss(*start, eps) - loss(mu, logvar, eps) for eps in fresh]).mean(0)
    return mean_and_error(gained)
