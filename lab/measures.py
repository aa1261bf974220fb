"""What is measured rather than trained: floors, closed forms, and scores for samples and latents.

Images are tensors (N, channels, height, width), uint8 or floats in [0, 1]. Losses and KL
divergences are in nats per image, squared errors are on [0, 1] and summed over an image. Sums that
matter run in float64, on the CPU; large uint8 sets may be memory-mapped: they are read in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from lab.eigen import blocks, largest_eigenpairs
from vae_helpers import as_pixels


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of independent values and its standard error, both in the values' unit."""
    values = values.detach().double().flatten()
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def running_means(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the first 1, 2, ... of n values and its standard error, (n,) each; the first
    error is not a number."""
    values, n = values.detach().double(), torch.arange(1, len(values) + 1)
    apart = values - values.mean()                      # so that squares do not cancel
    mean = apart.cumsum(0) / n
    variance = (apart.square().cumsum(0) - n * mean.square()).clamp(min=0) / (n - 1)
    return values.mean() + mean, (variance / n).sqrt()


# ---- floors and ceilings of a loss


def _bernoulli_entropy(p: Tensor) -> Tensor:
    """-p ln p - (1 - p) ln(1 - p) in nats, 0 at p = 0 and p = 1."""
    return -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)


def _mean_of(images: Tensor, function: Callable[[Tensor], Tensor]) -> float:
    """The mean over images of `function`, applied to each pixel and summed over an image.

    Bytes have 256 levels, so a histogram does for them what would otherwise be a pass in floats.
    """
    if images.dtype == torch.uint8:
        counts = sum(torch.bincount(block.flatten(), minlength=256) for block in blocks(images))
        total = (counts * function(torch.arange(256).double() / 255)).sum()
    else:
        total = sum(function(block.double()).sum() for block in blocks(images))
    return float(total) / len(images)


def mean_image(images: Tensor) -> Tensor:
    """The mean image, flattened (D,), in float64 on [0, 1]; exact for bytes."""
    if images.dtype == torch.uint8:  # a block has fewer than 2^23 rows, so int32 never overflows
        sums = sum(block.sum(0, dtype=torch.int32).double() for block in blocks(images))
        return sums / (255 * len(images))
    return sum(block.double().sum(0) for block in blocks(images)) / len(images)


def entropy_floor(images: Tensor) -> float:
    """The least binary cross-entropy that any x_hat can reach, in nats per image.

    It is the pixels' own Bernoulli entropy, reached at x_hat = x; on grey pixels it is far from 0.
    """
    return _mean_of(images, _bernoulli_entropy)


def mean_image_loss(images: Tensor, of: Tensor | None = None, loss: str = "bce") -> float:
    """What the constant mean image of `of` (the images themselves if None) scores on images.

    `loss` is "bce", in nats per image, or "sse", the summed squared error per image on [0, 1].
    Both need only each pixel's mean, because both are linear in x and x² for a constant x_hat.
    """
    x, x_hat = mean_image(images), mean_image(images if of is None else of)
    if loss == "bce":
        return -(torch.xlogy(x, x_hat) + torch.xlogy(1 - x, 1 - x_hat)).sum().item()
    if loss == "sse":
        return _mean_of(images, torch.square) - (2 * x @ x_hat - x_hat @ x_hat).item()
    raise ValueError(f'mean_image_loss knows the losses "bce" and "sse", not {loss!r}')


# ---- the linear optimum


@dataclass(frozen=True)
class Spectrum:
    """The largest eigenvalues of the pixels' covariance, and what is needed to use them."""

    eigenvalues: Tensor  # (k,), descending, in squared pixel units of [0, 1]
    components: Tensor  # (k, D), orthonormal rows, in the eigenvalues' order
    mean: Tensor  # (D,), the mean image
    total: float  # the trace: the summed variance of all pixels
    error: float  # no eigenvalue is further than this from a true one (0: solved exactly)


def spectrum(images: Tensor, top: int = 256, passes: int = 12, seed: int = 0) -> Spectrum:
    """The `top` largest eigenvalues and eigenvectors of the images' covariance.

    Up to 2,048 images or 4,096 pixels it is exact. Above both, block Krylov iteration reads the
    images at most `passes` times, never forms the covariance, and stops when it has converged.
    """
    mean = mean_image(images)
    total = _mean_of(images, torch.square) - (mean @ mean).item()
    eigenvalues, vectors, error = largest_eigenpairs(images, mean, top, passes, seed)
    return Spectrum(eigenvalues.clamp(min=0), vectors.T.contiguous(), mean, total, error)


@dataclass(frozen=True)
class LinearOptimum:
    """Where a linear VAE ends on data of given covariance, for decoder variance sigma2."""

    sigma2: float  # the decoder's variance per pixel, in squared pixel units
    rate: float  # KL, nats per image
    distortion: float  # squared error, summed over an image
    active: int  # directions kept: those whose eigenvalue is above sigma2, at most `latent`
    variances: Tensor  # (active,), the posterior variances sigma2 / eigenvalue

    @property
    def dof(self) -> float:
        """Degrees of freedom, the sum of 1 - sigma2 / eigenvalue: a count without a threshold."""
        return (1 - self.variances).sum().item()

    def loss(self, a: float = 1.0, b: float = 1.0) -> float:
        """a·SSE + b·KL; it is the least possible if sigma2 is b / (2a)."""
        return a * self.distortion + b * self.rate


def linear_optimum(known: Spectrum, sigma2: float, latent: int | None = None) -> LinearOptimum:
    """The closed-form optimum of a linear VAE with `latent` dimensions (None: no limit).

    Direction i is kept if lambda_i > sigma2, at the rate ½ ln(lambda_i / sigma2), and then leaves
    an error of sigma2; a direction that is dropped leaves its whole variance lambda_i.
    """
    kept = _kept(known, sigma2, latent)
    rate = 0.5 * torch.log(kept / sigma2).sum().item()
    distortion = len(kept) * sigma2 + known.total - kept.sum().item()
    return LinearOptimum(sigma2, rate, distortion, len(kept), sigma2 / kept)


def _kept(known: Spectrum, sigma2: float, latent: int | None) -> Tensor:
    """The eigenvalues above sigma2, at most `latent`; a spectrum cut above it is refused."""
    values = known.eigenvalues
    if values[-1] > sigma2 and len(values) < min(latent or math.inf, len(known.mean)):
        raise ValueError(f"all {len(values)} eigenvalues of this spectrum are above sigma2 = "
                         f"{sigma2:g}, so more directions may be active: call "
                         "spectrum(images, top=...) with a larger top")
    return values[values > sigma2][:latent]


class RateDistortion(NamedTuple):
    """The linear VAE's curve, one entry for each sigma2, as tensors of float64."""

    sigma2: Tensor
    rate: Tensor  # nats per image
    distortion: Tensor  # squared error per image
    active: Tensor  # directions kept


def rate_distortion(known: Spectrum, sigma2s: Sequence[float], latent: int | None = None,
                    ) -> RateDistortion:
    """The curve that the linear optimum draws in the rate-distortion plane."""
    points = [linear_optimum(known, float(sigma2), latent) for sigma2 in sigma2s]
    rows = [(p.sigma2, p.rate, p.distortion, p.active) for p in points]
    return RateDistortion(*torch.tensor(rows, dtype=torch.float64).T)


class LinearVAE(NamedTuple):
    """A linear VAE: mu = encoder (x - mean), one variance for all x, x_hat = mean + decoder z."""

    mean: Tensor  # (D,)
    encoder: Tensor  # (latent, D)
    decoder: Tensor  # (D, latent)
    variance: Tensor  # (latent,), of the posterior; 1 where a dimension is not used


def linear_vae_parameters(known: Spectrum, sigma2: float, latent: int) -> LinearVAE:
    """The linear VAE that attains linear_optimum(known, sigma2, latent), in float64."""
    kept = _kept(known, sigma2, latent)
    axes = known.components[: len(kept)]  # (active, D)
    gain = (kept - sigma2).sqrt()
    encoder = torch.zeros(latent, len(known.mean), dtype=torch.float64)
    decoder, variance = torch.zeros_like(encoder.T), torch.ones(latent, dtype=torch.float64)
    encoder[: len(kept)] = (gain / kept)[:, None] * axes
    decoder[:, : len(kept)] = gain * axes.T
    variance[: len(kept)] = sigma2 / kept
    return LinearVAE(known.mean, encoder, decoder, variance)


# ---- posteriors and latent codes


def kl_monte_carlo(mu: Tensor, logvar: Tensor, samples: int, generator: Generator | None = None,
                   ) -> tuple[float, float]:
    """KL(q || N(0, I)) by sampling z ~ q, and its standard error, in nats per image.

    `mu` and `logvar` are (d,) or (N, d); the KL is summed over d and averaged over N.
    """
    mu, logvar = torch.atleast_2d(mu.double()), torch.atleast_2d(logvar.double())
    epsilon = torch.randn(samples, *mu.shape, generator=generator, dtype=torch.float64)
    z = mu + (logvar / 2).exp() * epsilon  # (samples, N, d)
    log_ratio = 0.5 * (z.square() - epsilon.square() - logvar)  # ln q(z) - ln p(z)
    return mean_and_error(log_ratio.sum(-1).mean(-1))


def live(kl: Tensor, threshold: float = 0.01) -> Tensor:
    """The latent dimensions, in their order, whose mean KL is above `threshold` nats.

    `kl` is (N, d), or (d,) if the mean is already taken.
    """
    return (torch.atleast_2d(kl).double().mean(0) > threshold).nonzero().flatten()


def active_units(kl: Tensor, threshold: float = 0.01) -> int:
    """How many dimensions are live. A linear VAE's unused ones have a KL of exactly 0, so this
    count can be set against linear_optimum's `active`."""
    return len(live(kl, threshold))


def degrees_of_freedom(logvar: Tensor) -> float:
    """The sum over dimensions of the mean of 1 - sigma_j², of logvar (N, d): no threshold in it.

    A dimension that is not used adds 0, one without noise adds 1. For a linear VAE it is
    linear_optimum's `dof`.
    """
    return -torch.atleast_2d(logvar.double()).expm1().mean(0).sum().item()


class Gaussian(NamedTuple):
    """A Gaussian in d dimensions, in float64: of latent codes, or of a classifier's features."""

    mean: Tensor  # (d,)
    covariance: Tensor  # (d, d)

    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        """`count` draws (count, d) in float64; directions without variance are allowed."""
        epsilon = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + epsilon @ symmetric_root(self.covariance)


def gaussian_fit(points: Tensor) -> Gaussian:
    """The Gaussian with the mean and the unbiased covariance of the points (N, d)."""
    points = points.detach().double().cpu()
    return Gaussian(points.mean(0), torch.atleast_2d(points.T.cov()))


def aggregate_posterior(mu: Tensor, logvar: Tensor) -> Gaussian:
    """The Gaussian with mean and covariance of the mixture of all posteriors, (N, d) each."""
    means = gaussian_fit(mu)
    return means._replace(covariance=means.covariance + logvar.double().exp().mean(0).diag())


def symmetric_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a positive semidefinite matrix."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T


def kl_gaussian_to_standard(mean: Tensor, covariance: Tensor) -> float:
    """KL(N(mean, covariance) || N(0, I)) in nats, over all dimensions together."""
    log_determinant = torch.linalg.slogdet(covariance).logabsdet
    return 0.5 * (covariance.trace() + mean @ mean - len(mean) - log_determinant).item()


def posterior_distances(mu: Tensor, logvar: Tensor, block: int = 8) -> Tensor:
    """The Bhattacharyya distance of every two diagonal Gaussians (N, d), as (N, N): -ln of the
    integral of sqrt(q_a(z) q_b(z)), their overlap; infinite between one and itself."""
    variance, quarter = logvar.exp(), logvar.sum(1) / 4
    found = torch.empty(len(mu), len(mu))
    for i in range(0, len(mu), block):                  # a block of rows, from the diagonal on
        rows = slice(i, i + block)
        both = variance[rows, None] + variance[i:]
        part = (mu[rows, None] - mu[i:]).square_().div_(both).mul_(0.25)
        part = part.add_(both.div_(2).log_(), alpha=0.5).sum(-1)
        part = part - quarter[rows, None] - quarter[i:]
        found[rows, i:], found[i:, rows] = part, part.T
    return found.fill_diagonal_(math.inf)


def median_nearest(distances: Tensor) -> float:
    """The median over (N, N) distances of that to the nearest one."""
    return distances.min(1).values.median().item()


class Gradients(NamedTuple):
    """Single-sample estimates of d E[f(z)] / d mu, each (samples, d), of equal mean."""

    pathwise: Tensor  # df/dz, through z = mu + sigma epsilon
    score: Tensor  # f(z) d ln q(z) / d mu
    score_with_baseline: Tensor  # the same with f less its mean over the other samples


def pathwise_and_score_gradients(f: Callable[[Tensor], Tensor], mu: Tensor, logvar: Tensor,
                                 samples: int, generator: Generator | None = None) -> Gradients:
    """Both gradient estimators of E[f(z)], z ~ N(mu, exp(logvar)), from the same draws.

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


# ---- attributes


def attribute_correlation(codes: Tensor, attributes: Tensor) -> Tensor:
    """Pearson's correlation (d, K) of codes (N, d) with attributes (N, K).

    Where a code or an attribute is constant it is 0.
    """
    codes, attributes = (t.double() - t.double().mean(0) for t in (codes, attributes))
    norms = codes.norm(dim=0)[:, None] * attributes.norm(dim=0)
    return (codes.T @ attributes) / norms.clamp(min=1e-300)


# ---- images


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """The structural similarity of each pair of images (N,), the mean over channels.

    As Wang et al. 2004 define it: Gaussian window of 11 pixels, sigma 1.5, inside the image only,
    constants (0.01)² and (0.03)² for pixels in [0, 1].
    """
    pairs = zip(a.split(500), b.split(500), strict=True)
    return torch.cat([_ssim(as_pixels(p), as_pixels(q)) for p, q in pairs])


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """The structural similarity of each pair of images in [0, 1]."""
    down, across = (_gaussian_windows(side).to(a) for side in a.shape[2:])

    def local_mean(x: Tensor) -> Tensor:  # (N, C, H, W) to (N, C, H - 10, W - 10)
        return down @ (x @ across.T)

    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a) - mean_a ** 2 + local_mean(b * b) - mean_b ** 2
    covariance = local_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 0.01 ** 2) / (mean_a ** 2 + mean_b ** 2 + 0.01 ** 2)
    structure = (2 * covariance + 0.03 ** 2) / (variances + 0.03 ** 2)
    return (luminance * structure).mean((1, 2, 3))


def _gaussian_windows(side: int) -> Tensor:
    """The matrix (side - 10, side) whose rows average 11 neighbouring pixels, sigma 1.5."""
    distance = torch.arange(side) - torch.arange(5, side - 5)[:, None]
    weights = torch.exp(-distance.double().square() / (2 * 1.5 ** 2)) * (distance.abs() <= 5)
    return weights / weights.sum(1, keepdim=True)


def sharpness(images: Tensor) -> Tensor:
    """The variance over pixels of each image's Laplacian (N,), in grey levels of [0, 1].

    It is 0 for a constant image or an even ramp, falls with blur and rises with noise.
    """
    grey = as_pixels(images).mean(1)
    across = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    down = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    laplacian = across + down - 4 * grey[:, 1:-1, 1:-1]
    return laplacian.flatten(1).var(1, unbiased=False)


def neighbour_correlation(images: Tensor) -> Tensor:
    """Pearson's correlation of adjacent pixels in each image (N,).

    Horizontal and vertical neighbours count together, deviations are from each channel's own mean
    in that image, so that neither the colour of an image nor the mean image adds to it: about 0 for
    white noise, near 1 for smooth pictures, undefined (nan) for a constant one.
    """
    x = as_pixels(images)
    first = torch.cat([x[..., :-1].flatten(2), x[..., :-1, :].flatten(2)], 2)  # (N, C, pairs)
    second = torch.cat([x[..., 1:].flatten(2), x[..., 1:, :].flatten(2)], 2)
    first, second = (t - t.mean(2, keepdim=True) for t in (first, second))
    products = (first * second, first ** 2, second ** 2)
    covariance, *variances = (t.sum((1, 2)) for t in products)
    return covariance / (variances[0] * variances[1]).sqrt()


def smoothness(frames: Tensor) -> Tensor:
    """The mean squared difference of neighbouring frames, per pixel in [0, 1].

    `frames` is (..., n, C, H, W); the result has the leading shape. Less is not better by itself: a
    decoder that ignores its latent scores 0.
    """
    return _steps(frames).mean(-1)


def evenness(frames: Tensor) -> Tensor:
    """The largest squared step of an interpolation over the mean one: 1 if all are equal."""
    steps = _steps(frames)
    return steps.amax(-1) / steps.mean(-1)


def _steps(frames: Tensor) -> Tensor:
    """The squared difference of each frame to the next (..., n - 1), a mean over pixels."""
    frames = as_pixels(frames)
    return (frames[..., 1:, :, :, :] - frames[..., :-1, :, :, :]).square().mean((-3, -2, -1))


class Nearest(NamedTuple):
    """The nearest reference of each query."""

    distance: Tensor  # (Q,), Euclidean over all pixels in [0, 1] (or over features)
    index: Tensor  # (Q,), into the references


def nearest(queries: Tensor, references: Tensor) -> Nearest:
    """Each query's nearest reference; images or features, bytes on either side allowed.

    The search expands |q - r|² in float32, which rounds; the distance is then taken afresh from the
    winner, so that a copy is at exactly 0.
    """
    q = as_pixels(queries).flatten(1).cpu().float()
    best = torch.full((len(q),), math.inf)
    index = torch.zeros(len(q), dtype=torch.int64)
    start = 0
    for block in blocks(references, rows=1024):
        block = as_pixels(block).float()
        squared, where = (block.square().sum(1) - 2 * q @ block.T).min(1)  # less |q|²
        index = torch.where(squared < best, where + start, index)
        best, start = torch.minimum(best, squared), start + len(block)
    winners = as_pixels(references[index]).flatten(1).cpu().float()
    return Nearest((q - winners).norm(dim=1), index)
