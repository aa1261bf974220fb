"""What is measured rather than trained: floors, closed forms, and scores for samples and latents.

Images are tensors (N, channels, height, width), uint8 or floats in [0, 1]. Losses and KL
divergences are in nats per image, squared errors are on [0, 1] and summed over an image. Sums that
matter run in float64, on the CPU; large uint8 sets may be memory-mapped: they are read in blocks.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_PIXELS = 2**23  # pixels converted to floats at a time: 32 MB, whatever the size of an image
EXACT_IMAGES = 1024  # up to this many images their products are formed whole (8 MB)
EXACT_SIDE = 4096  # up to this many pixels the covariance is formed whole (128 MB)
FEATURE_NET = 1  # the version of FeatureNet and its training: a new one never loads old weights


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


def _mean_of(images: Tensor, function: Callable[[Tensor], Tensor]) -> float:
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

    Up to 1,024 images or 4,096 pixels it is exact. Above both, block Krylov iteration reads the
    images at most `passes` times, never forms the covariance, and stops when it has converged.
    """
    mean = mean_image(images)
    total = _mean_of(images, torch.square) - (mean @ mean).item()
    if len(images) <= min(EXACT_IMAGES, len(mean)):
        eigenvalues, vectors, error = *_few_images_eigenpairs(images, mean, top), 0.0
    elif len(mean) <= max(EXACT_SIDE, passes * top):
        eigenvalues, vectors = torch.linalg.eigh(_covariance(images, mean))
        eigenvalues, vectors, error = eigenvalues.flip(0)[:top], vectors.flip(1)[:, :top], 0.0
    else:
        start = torch.Generator().manual_seed(seed)
        start = torch.randn(len(mean), -(-top // 2), generator=start, dtype=torch.float64)
        eigenvalues, vectors, error = _block_krylov(
            lambda basis: _covariance_times(images, mean, basis), start, top, passes
        )
    return Spectrum(eigenvalues.clamp(min=0), vectors.T.contiguous(), mean, total, error)


def _few_images_eigenpairs(images: Tensor, mean: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return the exact eigenpairs through the products of images, a matrix far less than (D, D)."""
    x = torch.zeros(max(len(images), min(top, len(mean))), len(mean), dtype=torch.float64)
    x[: len(images)] = as_pixels(images).flatten(1).cpu() - mean  # rows of zeros change nothing
    eigenvalues, weights = torch.linalg.eigh(x @ x.T / len(images))
    vectors = torch.linalg.qr(x.T @ weights.flip(1)[:, :top]).Q  # orthonormal even where x has none
    return eigenvalues.flip(0)[:top], vectors


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
        """Return a·SSE + b·KL; it is the least possible if sigma2 is b / (2a)."""
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


class Gaussian(NamedTuple):
    """A Gaussian in d dimensions, in float64: of latent codes, or of a classifier's features."""

    mean: Tensor  # (d,)
    covariance: Tensor  # (d, d)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return `count` draws (count, d) in float64; directions without variance are allowed."""
        epsilon = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + epsilon @ _root(self.covariance)


def gaussian_fit(points: Tensor) -> Gaussian:
    """Return the Gaussian with the mean and the unbiased covariance of the points (N, d)."""
    points = points.detach().double().cpu()
    return Gaussian(points.mean(0), torch.atleast_2d(points.T.cov()))


def _root(covariance: Tensor) -> Tensor:
    """Return the symmetric square root of a positive semidefinite matrix."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T


def kl_gaussian_to_standard(mean: Tensor, covariance: Tensor) -> float:
    """Return KL(N(mean, covariance) || N(0, I)) in nats, over all dimensions together."""
    log_determinant = torch.linalg.slogdet(covariance).logabsdet
    return 0.5 * (covariance.trace() + mean @ mean - len(mean) - log_determinant).item()


def posterior_distance(mu_a: Tensor, logvar_a: Tensor, mu_b: Tensor, logvar_b: Tensor) -> Tensor:
    """Return the Bhattacharyya distance of diagonal Gaussians, over the last dimension.

    It is -ln of the integral of sqrt(q_a(z) q_b(z)), their overlap: 0 for equal posteriors.
    """
    mu_a, mu_b, logvar_a, logvar_b = (t.double() for t in (mu_a, mu_b, logvar_a, logvar_b))
    mean_variance = (logvar_a.exp() + logvar_b.exp()) / 2
    spread = mean_variance.log() - (logvar_a + logvar_b) / 2
    return ((mu_a - mu_b).square() / (8 * mean_variance) + spread / 2).sum(-1)


class Gradients(NamedTuple):
    """Single-sample estimates of d E[f(z)] / d mu, each (samples, d), of equal mean."""

    pathwise: Tensor  # df/dz, through z = mu + sigma epsilon
    score: Tensor  # f(z) d ln q(z) / d mu
    score_with_baseline: Tensor  # the same with f less its mean over the other samples


def pathwise_and_score_gradients(
    f: Callable[[Tensor], Tensor],
    mu: Tensor,
    logvar: Tensor,
    samples: int,
    generator: torch.Generator | None = None,
) -> Gradients:
    """Return both gradient estimators of E[f(z)], z ~ N(mu, exp(logvar)), from the same draws.

    `f` takes z (samples, d) and returns (samples,), differentiably; `mu` and `logvar` are (d,).
    """
    sigma = (logvar.detach() / 2).exp()
    epsilon = torch.randn(samples, len(mu), generator=generator, dtype=mu.dtype)
    z = (mu.detach() + sigma * epsilon).requires_grad_()
    value = f(z)
    (pathwise,) = torch.autograd.grad(value.sum(), z)
    value = value.detach()[:, None]
    log_slope = epsilon / sigma  # d ln q / d mu
    others = (value.sum() - value) / (samples - 1)
    return Gradients(pathwise, value * log_slope, (value - others) * log_slope)


def attribute_correlation(codes: Tensor, attributes: Tensor) -> Tensor:
    """Return Pearson's correlation (d, K) of codes (N, d) with attributes (N, K).

    Where a code or an attribute is constant it is 0.
    """
    codes, attributes = (t.double() - t.double().mean(0) for t in (codes, attributes))
    norms = codes.norm(dim=0)[:, None] * attributes.norm(dim=0)
    return (codes.T @ attributes) / norms.clamp(min=1e-300)


def auc(scores: Tensor, labels: Tensor) -> float:
    """Return the chance that a random positive scores above a random negative (ties count half)."""
    labels = labels.bool()
    negatives, positives = scores[~labels].sort().values, scores[labels].contiguous()
    below = torch.searchsorted(negatives, positives)
    not_above = torch.searchsorted(negatives, positives, right=True)
    return ((below + not_above).double() / 2).mean().item() / len(negatives)


# ---------------------------------------------------------------- images


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of each pair of images (N,), the mean over channels.

    As Wang et al. 2004 define it: Gaussian window of 11 pixels, sigma 1.5, inside the image only,
    constants (0.01)² and (0.03)² for pixels in [0, 1].
    """
    pairs = zip(a.split(500), b.split(500), strict=True)
    return torch.cat([_ssim(as_pixels(p), as_pixels(q)) for p, q in pairs])


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of each pair of images in [0, 1]."""
    down, across = (_gaussian_windows(side).to(a) for side in a.shape[2:])

    def local_mean(x: Tensor) -> Tensor:  # (N, C, H, W) to (N, C, H - 10, W - 10)
        return down @ (x @ across.T)

    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a) - mean_a**2 + local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variances + 0.03**2)
    return (luminance * structure).mean((1, 2, 3))


def _gaussian_windows(side: int) -> Tensor:
    """Return the matrix (side - 10, side) whose rows average 11 neighbouring pixels, sigma 1.5."""
    distance = torch.arange(side) - torch.arange(5, side - 5)[:, None]
    weights = torch.exp(-distance.double().square() / (2 * 1.5**2)) * (distance.abs() <= 5)
    return weights / weights.sum(1, keepdim=True)


def sharpness(images: Tensor) -> Tensor:
    """Return the variance over pixels of each image's Laplacian (N,), in grey levels of [0, 1].

    It is 0 for a constant image or an even ramp, falls with blur and rises with noise.
    """
    grey = as_pixels(images).mean(1)
    across = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    down = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    laplacian = across + down - 4 * grey[:, 1:-1, 1:-1]
    return laplacian.flatten(1).var(1, unbiased=False)


def neighbour_correlation(images: Tensor) -> Tensor:
    """Return Pearson's correlation of adjacent pixels in each image (N,).

    Horizontal and vertical neighbours count together, deviations are from each channel's own mean
    in that image, so that neither the colour of an image nor the mean image adds to it: about 0 for
    white noise, near 1 for smooth pictures, undefined (nan) for a constant one.
    """
    x = as_pixels(images)
    first = torch.cat([x[..., :-1].flatten(2), x[..., :-1, :].flatten(2)], 2)  # (N, C, pairs)
    second = torch.cat([x[..., 1:].flatten(2), x[..., 1:, :].flatten(2)], 2)
    first, second = (t - t.mean(2, keepdim=True) for t in (first, second))
    covariance, *variances = (t.sum((1, 2)) for t in (first * second, first**2, second**2))
    return covariance / (variances[0] * variances[1]).sqrt()


def smoothness(frames: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring frames, per pixel in [0, 1].

    `frames` is (..., n, C, H, W); the result has the leading shape. Less is not better by itself: a
    decoder that ignores its latent scores 0.
    """
    return _steps(frames).mean(-1)


def evenness(frames: Tensor) -> Tensor:
    """Return the largest squared step of an interpolation over the mean one: 1 if all are equal."""
    steps = _steps(frames)
    return steps.amax(-1) / steps.mean(-1)


def _steps(frames: Tensor) -> Tensor:
    """Return the squared difference of each frame to the next (..., n - 1), a mean over pixels."""
    frames = as_pixels(frames)
    return (frames[..., 1:, :, :, :] - frames[..., :-1, :, :, :]).square().mean((-3, -2, -1))


class Nearest(NamedTuple):
    """The nearest reference of each query."""

    distance: Tensor  # (Q,), Euclidean over all pixels in [0, 1] (or over features)
    index: Tensor  # (Q,), into the references


def nearest(queries: Tensor, references: Tensor) -> Nearest:
    """Return each query's nearest reference; images or features, bytes on either side allowed.

    The search expands |q - r|² in float32, which rounds; the distance is then taken afresh from the
    winner, so that a copy is at exactly 0.
    """
    q = as_pixels(queries).flatten(1).cpu().float()
    best = torch.full((len(q),), math.inf)
    index = torch.zeros(len(q), dtype=torch.int64)
    start = 0
    for block in _blocks(references, rows=1024):
        block = as_pixels(block).float()
        squared, where = (block.square().sum(1) - 2 * q @ block.T).min(1)  # less |q|²
        index = torch.where(squared < best, where + start, index)
        best, start = torch.minimum(best, squared), start + len(block)
    winners = as_pixels(references[index]).flatten(1).cpu().float()
    return Nearest((q - winners).norm(dim=1), index)


def frechet_distance(a: Tensor | Gaussian, b: Tensor | Gaussian) -> float:
    """Return the Fréchet (squared Wasserstein) distance of two sets' Gaussians.

    `a` and `b` are features (N, d) or their gaussian_fit. Finite sets of one distribution are not
    at 0: state the distance of two such sets of the same sizes beside every value.
    """
    a, b = (t if isinstance(t, Gaussian) else gaussian_fit(t) for t in (a, b))
    root = _root(a.covariance)
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return ((a.mean - b.mean).square().sum() + spread).item()


# ---------------------------------------------------------------- a small classifier, for features


class FeatureNet(nn.Module):
    """A small convolutional classifier whose last hidden layer serves as features of an image.

    Nothing is downloaded: it is trained here, so its Fréchet distances are never to be called FID.
    """

    def __init__(self, side: int, outputs: int, features: int = 128):
        super().__init__()
        layers, width = [], 3
        while side > 4:  # halve to 4×4
            wider = 32 if width == 3 else min(2 * width, 128)
            norm = nn.BatchNorm2d(wider, momentum=0.2)  # so that a few dozen steps are enough
            layers += [nn.Conv2d(width, wider, 4, 2, 1, bias=False), norm, nn.ReLU()]
            side, width = side // 2, wider
        layers += [nn.Flatten(), nn.Linear(width * side * side, features), nn.ReLU()]
        self.describe = nn.Sequential(*layers)
        self.classify = nn.Linear(features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images in [0, 1]."""
        return self.classify(self.describe(x))


def train_feature_net(
    images: Tensor,
    labels: Tensor,
    epochs: int = 5,
    seed: int = 0,
    device: str | torch.device = "cpu",
    bf16: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> FeatureNet:
    """Return a classifier of classes, int64 (N,), or of yes-or-no attributes, bool (N, K).

    The same seed, device and number of threads give the same weights, and the global random state
    is left as it was.
    """
    net = _untrained_net(images, labels, seed).to(device, memory_format=torch.channels_last)
    optimizer, schedule = _one_cycle(net, steps=epochs * math.ceil(len(images) / 256))
    draw = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for index in torch.randperm(len(images), generator=draw).split(256):
            x = _mirror_half(_batch(images[index], device), draw)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                logits = net(x)
            optimizer.zero_grad()
            _classifier_loss(logits.float(), labels[index].to(device)).backward()
            optimizer.step()
            schedule.step()
        if progress:
            progress(epoch + 1, epochs, "training the classifier for features")
    return net.eval()


def _untrained_net(images: Tensor, labels: Tensor, seed: int) -> FeatureNet:
    """Return the classifier that fits these images and labels, initialised from `seed`."""
    outputs = labels.shape[1] if labels.dtype == torch.bool else int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return FeatureNet(images.shape[-1], outputs)


def _one_cycle(net: nn.Module, steps: int, peak: float = 3e-3):
    """Return AdamW and a schedule that rises to `peak` in a fifth of the steps and falls to 0."""

    def share_of_peak(step: int) -> float:
        return min((step + 1) / (0.2 * steps + 1), (steps - step) / (0.8 * steps))

    optimizer = torch.optim.AdamW(net.parameters(), lr=peak)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak)


def _batch(images: Tensor, device: str | torch.device) -> Tensor:
    """Return images as floats in [0, 1] on the device, channels last."""
    return as_pixels(images.to(device)).float().contiguous(memory_format=torch.channels_last)


def _mirror_half(x: Tensor, draw: torch.Generator) -> Tensor:
    """Return the batch with a random half of its images mirrored."""
    mirrored = (torch.rand(len(x), 1, 1, 1, generator=draw) < 0.5).to(x.device)
    return torch.where(mirrored, x.flip(3), x)


def _classifier_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy: of classes, or of each yes-or-no attribute by itself."""
    if labels.dtype == torch.bool:
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    return F.cross_entropy(logits, labels)


@torch.no_grad()
def features(net: FeatureNet, images: Tensor) -> Tensor:
    """Return the last hidden layer's activations (N, 128) of the images, float32 on the CPU."""
    device = next(net.parameters()).device
    return torch.cat([net.describe(_batch(block, device)).cpu() for block in images.split(500)])


@torch.no_grad()
def accuracy(net: FeatureNet, images: Tensor, labels: Tensor) -> float:
    """Return the share of right answers: of images, or of all attributes of all images."""
    logits = net.classify(features(net, images).to(net.classify.weight.device)).cpu()
    answers = logits > 0 if labels.dtype == torch.bool else logits.argmax(1)
    return (answers == labels.cpu()).double().mean().item()


def feature_net(
    images: Tensor,
    labels: Tensor,
    folder: str | os.PathLike,
    epochs: int = 5,
    seed: int = 0,
    bf16: bool = False,
    **where,
) -> FeatureNet:
    """Return train_feature_net's classifier, from `folder` if it was trained there before.

    Images, labels, epochs, seed and precision make its identity; `where` (device, progress) is not
    part of it. A file that is damaged or of another identity is trained and written afresh.
    """
    identity = _identity(images, labels, epochs, seed, bf16)
    path = Path(folder) / f"features-{identity}.pt"
    net = _untrained_net(images, labels, seed)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(saved[identity])
        return net.to(where.get("device", "cpu"), memory_format=torch.channels_last).eval()
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError):
        net = train_feature_net(images, labels, epochs, seed, bf16=bf16, **where)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({identity: net.state_dict()}, beside)
    os.replace(beside, path)
    return net


def _identity(images: Tensor, labels: Tensor, *settings) -> str:
    """Return 16 hex digits that stand for a training set and its settings."""
    digest = hashlib.sha256(repr((FEATURE_NET, images.shape, images.dtype, settings)).encode())
    for block in _blocks(images):
        digest.update(block.contiguous().numpy())
    digest.update(labels.cpu().contiguous().numpy())
    return digest.hexdigest()[:16]
