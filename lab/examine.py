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
from lab.training import (
    autocast,
    batch_of,
    decode_set,
    draw_codes,
    encode_set,
    generator,
    usable,
)
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


# ---- what a code costs


@torch.no_grad()
def logits_at(model: VAE, z: Tensor, batch: int = 500) -> Tensor:
    """Logits (N, 3, H, W), on the CPU, for latent vectors (N, d)."""
    device = next(model.parameters()).device
    return torch.cat([model.decode(part.to(device)).float().cpu() for part in z.split(batch)])


def errors_at(model: VAE, images: Tensor, z: Tensor) -> Tensor:
    """The reconstruction error of every uint8 image decoded from its latent vector, (N,)."""
    return reconstruction_error(model.recipe, logits_at(model, z), as_pixels(images))


def noise_cost(model: VAE, images: Tensor, mu: Tensor, logvar: Tensor, draw: torch.Generator,
               n: int = 8) -> Tensor:
    """E f(mu + sigma eps) - f(mu), the nats that the noise costs each reconstruction, (N,)."""
    noisy = sum(errors_at(model, images, draw_codes(mu, logvar, draw)) for _ in range(n)) / n
    return noisy - errors_at(model, images, mu)


def shaken(mu: Tensor, shape: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    """Codes (N, d) with noise of `scale` times the covariance's square root `shape` (d, d)."""
    return mu + scale * (torch.randn(mu.shape, generator=draw) @ shape.to(mu))


def curvatures(model: VAE, images: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The reconstruction's second derivative along every dimension at mu, (N, d).

    Taken as a second difference over one posterior standard deviation to either side.
    """
    sigma, both = (logvar / 2).exp(), images.repeat(2, 1, 1, 1)
    centre, found = errors_at(model, images, mu), torch.empty(mu.shape, dtype=torch.float64)
    for j in range(mu.shape[1]):
        step = torch.zeros_like(mu)
        step[:, j] = sigma[:, j]
        up, down = errors_at(model, both, torch.cat([mu + step, mu - step])).double().chunk(2)
        found[:, j] = (up + down - 2 * centre.double()) / sigma[:, j].double() ** 2
    return found


class Law(NamedTuple):
    """How far sigma_j² = beta / (beta + H_jj) holds."""

    slope: float  # of -ln sigma² on ln(1 + H / beta) over dimensions, through the origin; 1
    error: float  # the slope's standard error, from leaving out one image at a time
    correlation: float  # of the same two over dimensions


def curvature_law(curvature: Tensor, logvar: Tensor, beta: float) -> Law:
    """The measured variances (N, d) beside those that the curvature (N, d) foretells.

    Both sides are averaged over images first, 1 / sigma² on the left and H on the right, in which
    the law is linear. In logarithms a dimension that is not used lies at the origin, where it
    lifts nothing; among the variances themselves it would lie at (1, 1) and hold the line there.
    """
    precision, n = logvar.double().neg().exp(), len(logvar)
    if n < 2:
        return Law(math.nan, math.nan, math.nan)

    def logs(curvature: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        return (1 + curvature.clamp(min=0) / beta).log(), precision.log()

    def slope(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(-1) / x.square().sum(-1)

    x, y = logs(curvature.mean(0), precision.mean(0))
    without = slope(*logs(*((t.sum(0) - t) / (n - 1) for t in (curvature, precision))))
    error = (without.var(unbiased=False) * (n - 1)).sqrt()
    return Law(slope(x, y).item(), error.item(), torch.corrcoef(torch.stack([x, y]))[0, 1].item())


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
