"""What is measured rather than trained: floors, closed forms, and scores for samples and latents.

Images are tensors (N, channels, height, width), uint8 or floats in [0, 1]. Losses and KL
divergences are in nats per image, squared errors are on [0, 1] and summed over an image. Sums that
matter run in float64, on the CPU; large uint8 sets may be memory-mapped: they are read in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_PIXELS = 2**23  # pixels converted to floats at a time: 32 MB, whatever the size of an image
EXACT_SIDE = 4096  # up to this many pixels the covariance is formed whole (64 MB in float32)


def as_pixels(images: Tensor) -> Tensor:
    """Return images as floats in [0, 1], whether they come as bytes or already as floats."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of independent values and its standard error, both in the values' unit."""
    values = values.detach().double().flatten()
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def _blocks(images: Tensor, rows: int = 0) -> Iterator[Tensor]:
    """Yield the images flattened, (rows, D) at a time, on the CPU and in their own type."""
    rows = rows or max(1, BLOCK_PIXELS // max(1, images[0].numel()))
    for start in range(0, len(images), rows):
        yield images[start : start + rows].flatten(1).cpu()


# ---------------------------------------------------------------- floors and ceilings of a loss


def _bernoulli_entropy(p: Tensor) -> Tensor:
    """Return -p ln p - (1 - p) ln(1 - p) in nats, 0 at p = 0 and p = 1."""
    return -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)


def _mean_of(images: Tensor, function) -> float:
    """Return the mean over images of `function`, applied to each pixel and summed over an image.

    Bytes have 256 levels, so a histogram does for them what would otherwise be a pass in floats.
    """
    if images.dtype == torch.uint8:
        counts = sum(torch.bincount(block.flatten(), minlength=256) for block in _blocks(images))
        total = (counts * function(torch.arange(256).double() / 255)).sum()
    else:
        total = sum(function(block.double()).sum() for block in _blocks(images))
    return float(total) / len(images)


def mean_image(images: Tensor) -> Tensor:
    """Return the mean image, flattened (D,), in float64 on [0, 1]; exact for bytes."""
    if images.dtype == torch.uint8:  # a block has fewer than 2^23 rows, so int32 never overflows
        sums = sum(block.sum(0, dtype=torch.int32).double() for block in _blocks(images))
        return sums / (255 * len(images))
    return sum(block.double().sum(0) for block in _blocks(images)) / len(images)


def entropy_floor(images: Tensor) -> float:
    """Return the least binary cross-entropy that any x_hat can reach, in nats per image.

    It is the pixels' own Bernoulli entropy, reached at x_hat = x; on grey pixels it is far from 0.
    """
    return _mean_of(images, _bernoulli_entropy)


def mean_image_loss(images: Tensor, of: Tensor | None = None, loss: str = "bce") -> float:
    """Return what the constant mean image of `of` (the images themselves if None) scores on images.

    `loss` is "bce", in nats per image, or "sse", the summed squared error per image on [0, 1].
    Both need only each pixel's mean, because both are linear in x and x² for a constant x_hat.
    """
    x, x_hat = mean_image(images), mean_image(images if of is None else of)
    if loss == "bce":
        return -(torch.xlogy(x, x_hat) + torch.xlogy(1 - x, 1 - x_hat)).sum().item()
    if loss == "sse":
        return _mean_of(images, torch.square) - (2 * x @ x_hat - x_hat @ x_hat).item()
    raise ValueError(f'mean_image_loss knows the losses "bce" and "sse", not {loss!r}.')


# ---------------------------------------------------------------- the linear optimum


@dataclass(frozen=True)
class Spectrum:
    """The largest eigenvalues of the pixels' covariance, and what is needed to use them."""

    eigenvalues: Tensor  # (k,), descending, in squared pixel units of [0, 1]
    components: Tensor  # (k, D), orthonormal rows, in the eigenvalues' order
    mean: Tensor  # (D,), the mean image
    total: float  # the trace: the summed variance of all pixels
    error: float  # no eigenvalue is further than this from a true one (0: solved exactly)


def spectrum(images: Tensor, top: int = 256, passes: int = 12, seed: int = 0) -> Spectrum:
    """Return the `top` largest eigenvalues and eigenvectors of the images' covariance.

    Up to 4,096 pixels the covariance is formed and solved whole. Above, block Krylov iteration
    reads the images at most `passes` times and never forms it; it stops when it has converged.
    """
    mean = mean_image(images)
    total = _mean_of(images, torch.square) - (mean @ mean).item()
    if len(mean) <= max(EXACT_SIDE, passes * top):
        eigenvalues, vectors = torch.linalg.eigh(_covariance(images, mean))
        eigenvalues, vectors, error = eigenvalues.flip(0)[:top], vectors.flip(1)[:, :top], 0.0
    else:
        start = torch.Generator().manual_seed(seed)
        start = torch.randn(len(mean), -(-top // 2), generator=start, dtype=torch.float64)
        eigenvalues, vectors, error = _block_krylov(
            lambda basis: _covariance_times(images, mean, basis), start, top, passes
        )
    return Spectrum(eigenvalues.clamp(min=0), vectors.T.contiguous(), mean, total, error)


def _covariance(images: Tensor, mean: Tensor) -> Tensor:
    """Return the covariance matrix (D, D) in float64, without rounding for bytes.

    Bytes less 128 are integers of at most 128, so that 1,024 of their products sum exactly in the
    24 bits of float32, at float32's speed; only the sums of blocks need float64.
    """
    of_bytes, of_floats = (255, 128, torch.float32), (1, 0.5, torch.float64)
    unit, shift, dtype = of_bytes if images.dtype == torch.uint8 else of_floats
    second = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for block in _blocks(images, rows=1024):
        block = block.to(dtype) - shift
        second += block.T @ block
    offset = unit * mean - shift
    return second.div_(len(images)).addr_(offset, offset, alpha=-1).div_(unit**2)


def _covariance_times(images: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """Return the covariance times `basis` (D, k) in float64, from one pass over the images."""
    dtype = torch.float32 if images.dtype == torch.uint8 else images.dtype
    basis, mean = basis.to(dtype), mean.to(dtype)
    product = torch.zeros_like(basis)
    for block in _blocks(images):
        block = as_pixels(block) - mean
        product.addmm_(block.T, block @ basis)
    return product.double().div_(len(images))


def _block_krylov(times, start: Tensor, top: int, passes: int) -> tuple[Tensor, Tensor, float]:
    """Return the `top` largest eigenpairs of a symmetric map and the largest residual norm.

    `times` applies the map to a block of columns; `start` (D, block) is random. After every pass
    the map is solved on all that was spanned so far (Rayleigh-Ritz), which finds the top of a
    spectrum in far fewer passes than powers of the map do.
    """
    basis = image = start[:, :0]  # (D, 0), growing by a block a pass; image = times(basis)
    fresh = start
    for _ in range(passes):
        fresh = torch.linalg.qr(_without(fresh, basis)).Q
        fresh = torch.linalg.qr(_without(fresh, basis)).Q  # again: once leaves rounding behind
        basis, image = torch.cat([basis, fresh], 1), torch.cat([image, times(fresh)], 1)
        fresh = _without(image[:, -start.shape[1] :], basis)
        ritz, vectors = torch.linalg.eigh(basis.T @ image)
        ritz, vectors = ritz.flip(0)[:top], vectors.flip(1)[:, :top]
        residual = (fresh @ vectors[-start.shape[1] :]).norm(dim=0).max().item()
        # An eigenvalue's error is about residual² / gap: 1 % here is 0.01 % or less there.
        if len(ritz) == top and residual <= 0.01 * ritz[-1] + 1e-6 * ritz[0]:
            break
    return ritz, basis @ vectors, residual


def _without(columns: Tensor, basis: Tensor) -> Tensor:
    """Return the columns less their projections on an orthonormal basis."""
    return columns - basis @ (basis.T @ columns)


@dataclass(frozen=True)
class LinearOptimum:
    """Where a linear VAE ends on data of given covariance, for decoder variance sigma2."""

    sigma2: float  # the decoder's variance per pixel, in squared pixel units
    rate: float  # KL, nats per image
    distortion: float  # squared error, summed over an image
    active: int  # directions kept: those whose eigenvalue is above sigma2, at most `latent`
    variances: Tensor  # (active,), the posterior variances sigma2 / eigenvalue

    def loss(self, a: float = 1.0, b: float = 1.0) -> float:
        """Return a·SSE + b·KL; it is the least possible if sigma2 is implied_sigma2(a, b)."""
        return a * self.distortion + b * self.rate


def linear_optimum(spectrum: Spectrum, sigma2: float, latent: int | None = None) -> LinearOptimum:
    """Return the closed-form optimum of a linear VAE with `latent` dimensions (None: no limit).

    Direction i is kept if lambda_i > sigma2, at the rate ½ ln(lambda_i / sigma2), and then leaves
    an error of sigma2; a direction that is dropped leaves its whole variance lambda_i.
    """
    kept = _kept(spectrum, sigma2, latent)
    rate = 0.5 * torch.log(kept / sigma2).sum().item()
    distortion = len(kept) * sigma2 + spectrum.total - kept.sum().item()
    return LinearOptimum(sigma2, rate, distortion, len(kept), sigma2 / kept)


def _kept(spectrum: Spectrum, sigma2: float, latent: int | None) -> Tensor:
    """Return the eigenvalues above sigma2, at most `latent`; refuse a spectrum cut above it."""
    known = spectrum.eigenvalues
    if known[-1] > sigma2 and len(known) < min(latent or math.inf, len(spectrum.mean)):
        raise ValueError(
            f"All {len(known)} eigenvalues of this spectrum are above sigma2 = {sigma2:g}, so more "
            f"directions may be active: call spectrum(images, top=...) with a larger top."
        )
    return known[known > sigma2][:latent]


class RateDistortion(NamedTuple):
    """The linear VAE's curve, one entry for each sigma2, as tensors of float64."""

    sigma2: Tensor
    rate: Tensor  # nats per image
    distortion: Tensor  # squared error per image
    active: Tensor  # directions kept


def rate_distortion(
    spectrum: Spectrum, sigma2s: Sequence[float], latent: int | None = None
) -> RateDistortion:
    """Return the curve that the linear optimum draws in the rate-distortion plane."""
    points = [linear_optimum(spectrum, float(sigma2), latent) for sigma2 in sigma2s]
    rows = [(p.sigma2, p.rate, p.distortion, p.active) for p in points]
    return RateDistortion(*torch.tensor(rows, dtype=torch.float64).T)


class LinearVAE(NamedTuple):
    """A linear VAE: mu = encoder (x - mean), one variance for all x, x_hat = mean + decoder z."""

    mean: Tensor  # (D,)
    encoder: Tensor  # (latent, D)
    decoder: Tensor  # (D, latent)
    variance: Tensor  # (latent,), of the posterior; 1 where a dimension is not used


def linear_vae_parameters(spectrum: Spectrum, sigma2: float, latent: int) -> LinearVAE:
    """Return the linear VAE that attains linear_optimum(spectrum, sigma2, latent), in float64."""
    kept = _kept(spectrum, sigma2, latent)
    axes = spectrum.components[: len(kept)]  # (active, D)
    gain = (kept - sigma2).sqrt()
    encoder = torch.zeros(latent, len(spectrum.mean), dtype=torch.float64)
    decoder, variance = torch.zeros_like(encoder.T), torch.ones(latent, dtype=torch.float64)
    encoder[: len(kept)] = (gain / kept)[:, None] * axes
    decoder[:, : len(kept)] = gain * axes.T
    variance[: len(kept)] = sigma2 / kept
    return LinearVAE(spectrum.mean, encoder, decoder, variance)


def implied_sigma2(a: float, b: float) -> float:
    """Return b / (2a), the decoder variance for which a·SSE + b·KL is a Gaussian ELBO."""
    return b / (2 * a)


def bernoulli_sigma2(x_hat: Tensor) -> float:
    """Return the mean of x_hat (1 - x_hat): the decoder variance that BCE stands for, at most ¼.

    To second order BCE exceeds its floor by (x - x_hat)² / (2 x_hat (1 - x_hat)), which is the
    squared error of a Gaussian of that variance.
    """
    x_hat = as_pixels(x_hat).double()
    return (x_hat * (1 - x_hat)).mean().item()


# ---------------------------------------------------------------- posteriors and latent codes


def kl_monte_carlo(
    mu: Tensor, logvar: Tensor, samples: int, generator: torch.Generator | None = None
) -> tuple[float, float]:
    """Return KL(q || N(0, I)) by sampling z ~ q, and its standard error, in nats per image.

    `mu` and `logvar` are (d,) or (N, d); the KL is summed over d and averaged over N.
    """
    mu, logvar = torch.atleast_2d(mu.double()), torch.atleast_2d(logvar.double())
    epsilon = torch.randn(samples, *mu.shape, generator=generator, dtype=torch.float64)
    z = mu + (logvar / 2).exp() * epsilon  # (samples, N, d)
    log_ratio = 0.5 * (z.square() - epsilon.square() - logvar)  # ln q(z) - ln p(z)
    return mean_and_error(log_ratio.sum(-1).mean(-1))


def active_units(kl_per_dimension: Tensor, threshold: float = 0.01) -> int:
    """Return how many latent dimensions have a mean KL above `threshold` nats.

    `kl_per_dimension` is (N, d), or (d,) if the mean is already taken. A linear VAE's unused
    dimensions have a KL of exactly 0, so this count can be set against linear_optimum's `active`.
    """
    return int((torch.atleast_2d(kl_per_dimension).double().mean(0) > threshold).sum())


def active_by_variance(mu: Tensor, threshold: float = 0.01) -> int:
    """Return how many dimensions of mu vary over images by more than `threshold` (Burda 2016)."""
    return int((mu.double().var(0) > threshold).sum())
