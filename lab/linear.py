"""The best linear VAE of some images, which PCA gives: what it costs, and how to start from it.

Images are bytes (N, channels, height, width). Losses and KL divergences are in nats per image,
squared errors are on [0, 1] and summed over an image. Sums that matter run in float64, on the CPU;
large sets may be memory-mapped: they are read in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from lab.training import generator
from vae_helpers import VAE, Recipe, as_pixels, build

FORMED_SIDE = 4096  # up to this many pixels the covariance is formed whole (128 MB)
PASSES = 12  # of the iteration: the last of 128 eigenvalues of CIFAR-10 is then right to 2e-8


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of independent values and its standard error, both in the values' unit."""
    values = values.detach().double().flatten()
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


class Estimate(NamedTuple):
    """A number and its error; the error is not a number where nothing tells it."""

    value: float
    error: float

    def less(self, other: Estimate) -> Estimate:
        return Estimate(self.value - other.value, math.hypot(self.error, other.error))


def over_seeds(values: list[float]) -> Estimate:
    """Mean and standard deviation over seeds, which one seed does not have."""
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else math.nan)


def running_means(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the first 1, 2, ... of n values and its standard error, (n,) each; the first
    error is not a number."""
    values, n = values.detach().double(), torch.arange(1, len(values) + 1)
    apart = values - values.mean()                      # so that squares do not cancel
    mean = apart.cumsum(0) / n
    variance = (apart.square().cumsum(0) - n * mean.square()).clamp(min=0) / (n - 1)
    return values.mean() + mean, (variance / n).sqrt()


# ---- floors and ceilings of a loss


def blocks(images: Tensor, rows: int = 512) -> Iterator[Tensor]:
    """The images flattened, (rows, D) at a time, on the CPU and in their own type."""
    return (part.flatten(1).cpu() for part in images.split(rows))


def mean_image(images: Tensor) -> Tensor:
    """The mean image, flattened (D,), in float64 on [0, 1]."""
    # Sums of bytes take an eighth of the time of sums in float64.
    total = sum(block.sum(0, dtype=torch.int32).double() for block in blocks(images))
    return total / (255 * len(images))


def _mean_of(images: Tensor, function: Callable[[Tensor], Tensor]) -> float:
    """The mean over images of `function`, applied to each pixel and summed over an image, by the
    histogram of the 256 levels."""
    counts = sum(torch.bincount(block.flatten(), minlength=256) for block in blocks(images))
    return (counts * function(torch.arange(256).double() / 255)).sum().item() / len(images)


def entropy_floor(images: Tensor) -> float:
    """The least binary cross-entropy that any x_hat can reach, in nats per image.

    It is the pixels' own Bernoulli entropy, reached at x_hat = x; on grey pixels it is far from 0.
    """
    return _mean_of(images, lambda x: -torch.xlogy(x, x) - torch.xlogy(1 - x, 1 - x))


def mean_image_loss(images: Tensor, of: Tensor) -> float:
    """The cross-entropy of images with the mean image of others, in nats per image."""
    x, x_hat = mean_image(images), mean_image(of)   # cross-entropy is linear in x
    return -(torch.xlogy(x, x_hat) + torch.xlogy(1 - x, 1 - x_hat)).sum().item()


def _distance_from(centre: Tensor, images: Tensor) -> float:
    """The mean squared distance of images from an image (D,)."""
    return _mean_of(images, torch.square) - (2 * mean_image(images) - centre).dot(centre).item()


# ---- the spectrum


@dataclass(frozen=True)
class Spectrum:
    """The largest eigenvalues of the pixels' covariance, and what is needed to use them."""

    eigenvalues: Tensor  # (k,), descending, in squared pixel units of [0, 1]
    components: Tensor  # (k, D), orthonormal rows, in the eigenvalues' order
    mean: Tensor  # (D,), the mean image
    total: float  # the trace: the summed variance of all pixels


def spectrum(images: Tensor, top: int = 256) -> Spectrum:
    """The `top` largest eigenvalues and eigenvectors of the images' covariance.

    Up to 4,096 pixels the covariance is formed; above, the images are read PASSES times instead.
    """
    mean = mean_image(images)
    times = (covariance(images, mean).numpy().dot if len(mean) <= FORMED_SIDE
             else partial(_covariance_times, images, mean))
    # LAPACK's threads wait for each other at every column: beside another busy process two were
    # measured to take up to a hundred times as long as one, which also makes one result for all.
    with threadpool_limits(limits=1, user_api="blas"):
        values, vectors = _block_krylov(times, len(mean), len(images), min(top, len(mean)))
    return Spectrum(torch.from_numpy(values).clamp(min=0), torch.from_numpy(vectors), mean,
                    _distance_from(mean, images))


def covariance(images: Tensor, mean: Tensor) -> Tensor:
    """The covariance matrix (D, D) of the pixels, in float64.

    Bytes less 128 are whole numbers, and 1,024 products of them sum exactly in the 24 bits of
    float32, in any order: the same on every machine, in two thirds of the time of float64.
    """
    D = len(mean)
    total = torch.zeros(D, D, dtype=torch.float64)
    for part in blocks(images, rows=1024):
        part = part.float() - 128
        for end in range(512, D + 512, 512):  # on and below the diagonal: two thirds of the time
            total[end - 512 : end, :end] += part[:, end - 512 : end].T @ part[:, :end]
    second, offset = total.tril() + total.tril(-1).T, 255 * mean - 128
    return second.div_(len(images)).addr_(offset, offset, alpha=-1).div_(255 ** 2)


def _covariance_times(images: Tensor, mean: Tensor, basis: np.ndarray) -> np.ndarray:
    """The covariance times `basis` (D, k), from one pass over the images in float32."""
    basis, mean = torch.from_numpy(basis).float(), mean.float()
    product = torch.zeros_like(basis)
    for block in blocks(images):
        x = as_pixels(block) - mean                                 # (B, D)
        product.addmm_(x.T, x @ basis)
    return product.double().div_(len(images)).numpy()


def _block_krylov(times: Callable, D: int, rank: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` largest eigenvalues, descending, and eigenvectors (top, D) of a symmetric map.

    `times` applies the map, whose rank is at most `rank`, to columns (D, block). It is solved
    within the span of random columns, their products with it, the products of those, ...
    """
    draw, block = np.random.default_rng(0), 8 + -(-top // 4)
    size = min(PASSES * block, D, max(top, rank + block))
    basis, inner = np.empty((size, D)), np.zeros((size, size))
    product = np.zeros((D, block))
    for k in range(0, size, block):
        # A trace of noise, for directions beyond the rank, which are to be orthonormal, too.
        fresh = (product + 1e-12 * draw.standard_normal((D, block)))[:, : size - k]
        known = basis[:k]
        for _ in range(2):  # once leaves rounding behind
            fresh = np.linalg.qr(fresh - known.T @ (known @ fresh))[0]
        basis[k : k + block] = fresh.T
        product = times(fresh)
        inner[: k + block, k : k + block] = basis[: k + block] @ product
    values, vectors = scipy.linalg.eigh(inner, lower=False, subset_by_index=(size - top, size - 1))
    return values[::-1].copy(), (vectors.T @ basis)[::-1].copy()


# ---- the linear optimum


@dataclass(frozen=True)
class LinearOptimum:
    """Where a linear VAE ends on data of given covariance, for decoder variance sigma2."""

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
    return LinearOptimum(rate, distortion, len(kept), sigma2 / kept)


def _kept(known: Spectrum, sigma2: float, latent: int | None) -> Tensor:
    """The eigenvalues above sigma2, at most `latent`; a spectrum cut above it is refused."""
    values = known.eigenvalues
    if values[-1] > sigma2 and len(values) < min(latent or math.inf, len(known.mean)):
        raise ValueError(f"all {len(values)} eigenvalues of this spectrum are above sigma2 = "
                         f"{sigma2:g}, so more directions may be active: call "
                         "spectrum(images, top=...) with a larger top")
    return values[values > sigma2][:latent]


class RateDistortion(NamedTuple):
    """The linear VAE's curve, one entry for each sigma2, in float64."""

    rate: Tensor  # nats per image
    distortion: Tensor  # squared error per image


class LinearVAE(NamedTuple):
    """A linear VAE: mu = encoder (x - mean), one variance for all x, x_hat = mean + decoder z."""

    mean: Tensor  # (D,)
    encoder: Tensor  # (latent, D)
    decoder: Tensor  # (D, latent)
    variance: Tensor  # (latent,), of the posterior; 1 where a dimension is not used


def linear_vae_parameters(known: Spectrum, sigma2: float, latent: int) -> LinearVAE:
    """The linear VAE that attains linear_optimum(known, sigma2, latent), in float64."""
    kept = _kept(known, sigma2, latent)
    axes, gain, unused = known.components[: len(kept)], (kept - sigma2).sqrt(), latent - len(kept)
    encoder = F.pad((gain / kept)[:, None] * axes, (0, 0, 0, unused))
    decoder = F.pad(gain * axes.T, (0, unused))
    return LinearVAE(known.mean, encoder, decoder, F.pad(sigma2 / kept, (0, unused), value=1.0))


def turn_towards(best: LinearVAE, mu: Tensor, images: Tensor) -> Tensor:
    """The turn (k, d) that takes a network's codes mu (N, d) of images nearest to the k active
    dimensions of the linear VAE's, in squared distance; a linear VAE is as good with turned codes.
    """
    active = best.encoder[best.variance < 1]                                            # (k, D)
    codes = torch.cat([(as_pixels(block).double() - best.mean) @ active.T
                       for block in blocks(images)])                                    # (N, k)
    left, _, right = torch.linalg.svd(codes.T @ mu.double(), full_matrices=False)
    return left @ right


# ---- linear models on other images


def pca_scores(known: Spectrum, images: Tensor, n: int) -> Tensor:
    """The first n coordinates (N, n) of images on the axes of their pixels' covariance."""
    axes, mean = known.components[:n].float(), known.mean.float()
    return torch.cat([(as_pixels(block) - mean) @ axes.T for block in blocks(images)])


class Scores(NamedTuple):
    """All that a linear model of known axes needs to be judged on some images."""

    moments: Tensor     # (k,), the mean squared score on each axis, in float64
    total: float        # the mean squared distance from the mean image


def scores_of(known: Spectrum, images: Tensor) -> Scores:
    """The scores of images on the axes of a spectrum, which may be that of other images."""
    scores = pca_scores(known, images, len(known.eigenvalues)).double()
    return Scores(scores.square().mean(0), _distance_from(known.mean, images))


def linear_on(known: Spectrum, scores: Scores, sigma2: float, latent: int) -> tuple[float, float]:
    """KL and squared error of the linear optimum of a spectrum on the images of these scores.

    On the images that the spectrum is of, they are those of `linear_optimum`.
    """
    best = linear_optimum(known, sigma2, latent)
    values, squares = known.eigenvalues[: best.active], scores.moments[: best.active]
    spent = (values - sigma2) / values ** 2 * squares + best.variances - 1 - best.variances.log()
    lost = (sigma2 / values) ** 2 * squares + (values - sigma2) * best.variances
    return spent.sum().item() / 2, scores.total + (lost - squares).sum().item()


def curve_on(known: Spectrum, scores: Scores, sigma2s: Sequence[float], latent: int,
             ) -> RateDistortion:
    """The curve that the linear models of these images draw on others, over the variance."""
    points = [linear_on(known, scores, float(sigma2), latent) for sigma2 in sigma2s]
    return RateDistortion(*torch.tensor(points, dtype=torch.float64).T)


def critical_betas(known: Spectrum, recipe: Recipe) -> Tensor:
    """The β from which on a linear VAE with a recipe's loss drops each direction, (k,): there its
    decoder's variance is the eigenvalue."""
    return known.eigenvalues * recipe.beta / recipe.sigma2


# ---- a training's start at the linear optimum


def spectrum_of(recipe: Recipe, images: Tensor) -> Spectrum:
    """The spectrum that the recipe starts from: of all images, or of some of them."""
    if 0 < recipe.start_images < len(images):
        order = torch.randperm(len(images), generator=generator("cpu", "spectrum"))
        images = images[order[: recipe.start_images]]
    return spectrum(images, top=recipe.latent)


@torch.no_grad()
def start(model: VAE, known: Spectrum) -> None:
    """Puts the best linear VAE into the model; a recipe with a random start stays as it is.

    The closed form is for squared error. The decoder works on logits, so its columns are divided by
    the link's slope at the mean image, x(1 - x), which makes it right for small z.
    """
    recipe = model.recipe
    if recipe.start == "random":
        return
    best = linear_vae_parameters(known, recipe.start_sigma2, recipe.latent)
    mean = best.mean.clamp(1 / 510, 1 - 1 / 510)    # (D,), half a grey level from 0 and 1
    decoder = recipe.start_gain * best.decoder / (mean * (1 - mean))[:, None]
    put = _put_beside if recipe.start == "linear" else _put_into_weights
    put(model, best, decoder, torch.logit(mean))
    model.to_logvar.weight.zero_()
    model.to_logvar.bias.copy_(best.variance.log())


def linear_model(recipe: Recipe, known: Spectrum, gain: float = 1.0) -> VAE:
    """The best linear VAE of a spectrum as a model without hidden layers, its logits times a gain.
    """
    model = build(recipe.but(network="fc", widths=(), norm=False, start="weights",
                             start_gain=gain)).eval()
    start(model, known)
    return model


def _put_beside(model: VAE, best: LinearVAE, decoder: Tensor, bias: Tensor) -> None:
    """Sets the linear path, and what the network adds to it to 0."""
    layers = [m for m in model.decoder.modules() if isinstance(m, (nn.Linear, nn.ConvTranspose2d))]
    for parameter in (model.to_mu.weight, *layers[-1].parameters()):
        parameter.zero_()
    model.linear_in.weight.copy_(best.encoder)
    model.to_mu.bias.copy_(-best.encoder @ best.mean)
    model.linear_out.weight.copy_(decoder)
    model.linear_out.bias.copy_(bias)


def _put_into_weights(model: VAE, best: LinearVAE, decoder: Tensor, bias: Tensor) -> None:
    """Writes the linear VAE into the dense layers themselves; its active directions come first."""
    k = int((best.variance < 1).sum())
    axes = torch.eye(len(best.variance), dtype=torch.float64)[:, :k]            # (d, k)
    encoder, decoder_layers = ([m for m in part.modules() if isinstance(m, nn.Linear)]
                               for part in (model.encoder, model.decoder))
    inwards = best.encoder[:k]
    _write_product([*encoder, model.to_mu], axes, inwards, -inwards @ best.mean, torch.zeros(()))
    _write_product(decoder_layers, decoder[:, :k], axes.T, torch.zeros(k).double(), bias)


def _write_product(layers: Sequence[nn.Linear], left: Tensor, right: Tensor, inner: Tensor,
                   outer: Tensor) -> None:
    """Makes dense layers with a ReLU between them compute left (right x + inner) + outer.

    A ReLU passes a number on as a pair, relu(h) and relu(-h), whose difference it is: k numbers
    take 2k units of each hidden layer. The other units keep the weights that they have, and what
    follows does not listen to them.
    """
    *hidden, last = layers
    k, narrowest = len(right), min((layer.out_features for layer in hidden), default=math.inf)
    if 2 * k > narrowest:
        raise ValueError(f"{k} directions need {2 * k} units, and a layer has {narrowest}")
    pair = torch.cat([torch.eye(k), -torch.eye(k)]).double()        # (2k, k)
    for layer in hidden:
        layer.weight[: 2 * k].zero_()
        layer.weight[: 2 * k, : right.shape[1]] = pair @ right
        layer.bias[: 2 * k] = pair @ inner
        right, inner = pair.T, torch.zeros(k).double()
    last.weight.zero_()
    last.weight[:, : right.shape[1]] = left @ right
    last.bias.copy_(left @ inner + outer)
