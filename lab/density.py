"""What a loss says as a distribution over the 256 grey levels of a pixel, in nats and in bits.

Images are uint8 (N, ...), x_hat floats of the same shape, sigma the decoder's standard deviation in
units of [0, 1]. Nats are minus the logarithm of an image's probability, (N,), in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lab.eigen import covariance
from lab.measures import LinearVAE, Spectrum, mean_and_error, mean_image

ROUNDING = 1 / (12 * 255 ** 2)      # the variance of a number that is only known to one level
FAR = -37.0                         # standard deviations at which erfc is about to underflow


def bits(nats: Tensor, values: int) -> tuple[float, float]:
    """The mean bits for each of the values of an image, and its standard error over images."""
    mean, error = mean_and_error(nats)
    return mean / (values * math.log(2)), error / (values * math.log(2))


# ---- cross-entropy


def log_of_levels(logits: Tensor) -> Tensor:
    """ln of the sum over the 256 grey levels of exp(-cross-entropy), for each logit, in float64.

    Without it cross-entropy is no density of grey pixels; the continuous Bernoulli has an integral
    in its place (Loaiza-Ganem & Cunningham 2019).
    """
    a = logits.double().abs().clamp(min=1e-9)           # even in the logit

    def log_sinh(t: Tensor) -> Tensor:
        return t + torch.log(-torch.expm1(-2 * t)) - math.log(2)

    return F.logsigmoid(-a) + a / 2 + log_sinh(a * 128 / 255) - log_sinh(a / 510)


def cross_entropy_bits(nats: Tensor, logits: Tensor) -> float:
    """Bits for each value of a pixel: unnormalised nats per image (N,), and the normaliser."""
    return bits(nats.double() + log_of_levels(logits).flatten(1).sum(1), logits[0].numel())[0]


# ---- a Gaussian for each value


def log_between(low: Tensor, high: Tensor) -> Tensor:
    """ln of a standard normal's mass from low to high, float64, precise in both far tails."""
    right = low + high > 0                              # there, the mirrored interval's
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    root = math.sqrt(0.5)
    found = (torch.erfc(high * -root) - torch.erfc(low * -root)).div_(2).log_()
    far = high < FAR
    if far.any():
        top, bottom = (torch.special.log_ndtr(edge[far]) for edge in (high, low))
        found[far] = top + torch.log1p(-torch.exp(bottom - top))
    return found


def edges(images: Tensor, tails: bool) -> tuple[Tensor, Tensor]:
    """Where the bin of every byte begins and ends: half a level below and above it.

    With `tails` the outermost two reach to infinity.
    """
    k = images.double()
    low, high = (k - 0.5) / 255, (k + 0.5) / 255
    if tails:
        low = torch.where(images == 0, -math.inf, low)
        high = torch.where(images == 255, math.inf, high)
    return low, high


def level_nats(images: Tensor, x_hat: Tensor, sigma: float) -> Tensor:
    """Of the Gaussian integrated over bins; what lies outside [0, 1] falls to the levels 0 and 255.

    The 256 bins are the whole line, so their probabilities sum to 1.
    """
    low, high = ((edge - x_hat.double()) / sigma for edge in edges(images, tails=True))
    return -log_between(low, high).flatten(1).sum(1)


def kept_nats(images: Tensor, x_hat: Tensor, sigma: float) -> Tensor:
    """Of the Gaussian cut off half a level outside [0, 1] and normalised again: the kindest way."""
    x_hat = x_hat.double()
    low, high = ((edge - x_hat) / sigma for edge in edges(images, tails=False))
    inside = log_between((-0.5 / 255 - x_hat) / sigma, (255.5 / 255 - x_hat) / sigma)
    return (inside - log_between(low, high)).flatten(1).sum(1)


def density_nats(images: Tensor, x_hat: Tensor, sigma: float) -> Tensor:
    """Of the Gaussian's density at the pixel times the width of a level, 1/255."""
    t = (images.double() / 255 - x_hat.double()) / sigma
    constant = math.log(sigma * 255) + 0.5 * math.log(2 * math.pi)
    return (t.square() / 2 + constant).flatten(1).sum(1)


def in_parts(nats: Callable, images: Tensor, x_hat: Tensor, sigma: float) -> Tensor:
    """The same, a few images at a time, which takes less memory and less time."""
    pairs = zip(images.split(50), x_hat.split(50), strict=True)
    return torch.cat([nats(*pair, sigma) for pair in pairs])


# ---- Gaussians over whole images


def learned_sigma2(known: Spectrum, latent: int) -> float:
    """The decoder variance of the best linear VAE: the mean variance of what it leaves out.

    It is probabilistic PCA's (Tipping & Bishop 1999), at least what rounding to levels leaves.
    """
    left_out = known.total - known.eigenvalues[:latent].sum().item()
    return max(left_out / (len(known.mean) - latent), ROUNDING)


def linear_nats(images: Tensor, model: LinearVAE, sigma2: float) -> Tensor:
    """Exact -ln p(x) of a linear VAE, z integrated out, its density times a level's width."""
    d = images.flatten(1).double() / 255 - model.mean
    inner = torch.eye(len(model.variance)).double() + model.decoder.T @ model.decoder / sigma2
    root = torch.linalg.cholesky(inner)
    seen = torch.linalg.solve_triangular(root, (d @ model.decoder).T, upper=False)      # (d, N)
    quadratic = (d.square().sum(1) - seen.square().sum(0) / sigma2) / sigma2
    constant = d.shape[1] * math.log(2 * math.pi * sigma2 * 255 ** 2) / 2
    return quadratic / 2 + root.diagonal().log().sum() + constant


class FullGaussian(NamedTuple):
    """A Gaussian over all values of an image at once, without any latent variable."""

    mean: Tensor    # (D,)
    root: Tensor    # (D, D), lower triangular: covariance = root root^T
    level: float    # what (x - mean)^T covariance^-1 (x - mean) grows by inside a level, a mean

    def nats(self, images: Tensor) -> Tensor:
        """At least -ln of the mass over every value's bin: its mean log density there (Jensen)."""
        d = images.flatten(1).double() / 255 - self.mean
        white = torch.linalg.solve_triangular(self.root, d.T, upper=False)
        return (white.square().sum(0) + self.level) / 2 + self._constant

    @property
    def fitted_nats(self) -> float:
        """The mean over the images that it was fitted to, which flatters it."""
        return len(self.mean) / 2 + self._constant

    @property
    def _constant(self) -> float:
        normal = len(self.mean) * math.log(2 * math.pi * 255 ** 2) / 2
        return normal + self.root.diagonal().log().sum().item()

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws (n, D), not confined to [0, 1]."""
        eps = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + eps @ self.root.T


def full_gaussian(images: Tensor) -> FullGaussian:
    """The Gaussian with the images' mean and covariance, each value spread over its level."""
    mean = mean_image(images)
    spread = covariance(images, mean)
    spread.diagonal().add_(ROUNDING)
    root = torch.linalg.cholesky(spread)
    return FullGaussian(mean, root, ROUNDING * torch.cholesky_inverse(root).trace().item())
