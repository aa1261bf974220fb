"""How like two sets of images are: pure functions of a classifier's features, and of frequencies.

Features are tensors (N, d), those of real images first. What each measure gets wrong is seen on the
ladder (`lab.ladder`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lab.measures import Gaussian, gaussian_fit, symmetric_root
from vae_helpers import as_pixels

# ---- distances of distributions


def frechet_distance(a: Tensor | Gaussian, b: Tensor | Gaussian) -> float:
    """The Fréchet (squared Wasserstein) distance of two sets' Gaussians.

    `a` and `b` are features (N, d) or their gaussian_fit. Finite sets of one distribution are not
    at 0: state the distance of two such sets of the same sizes beside every value.
    """
    a, b = (t if isinstance(t, Gaussian) else gaussian_fit(t) for t in (a, b))
    root = symmetric_root(a.covariance)
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return ((a.mean - b.mean).square().sum() + spread).item()


def kid(a: Tensor, b: Tensor, subsets: int = 10) -> tuple[float, float]:
    """The kernel distance of Bińkowski et al. 2018, and its standard error; nan of too few images.

    It is the unbiased squared MMD under the kernel (x·y / d + 1)³, of all features at once: 0 on
    average where both sets come from one distribution, whatever their sizes, so it may be negative.
    The error is that of the mean over disjoint subsets, a tenth of either set each. Where the
    distributions differ that is the whole's too; where they are one it is some three times that.
    """
    a, b = a.double(), b.double()
    parts = min(subsets, len(a) // 2, len(b) // 2)          # a subset needs two images
    if parts < 2:
        return (_mmd(a, b) if parts else math.nan), math.nan
    pairs = zip(a.tensor_split(parts), b.tensor_split(parts), strict=True)
    each = torch.tensor([_mmd(p, q) for p, q in pairs], dtype=torch.float64)
    return _mmd(a, b), (each.std() / math.sqrt(parts)).item()


def _mmd(a: Tensor, b: Tensor) -> float:
    """The unbiased squared MMD of two sets: no image is compared with itself."""
    within = sum((_kernel_sum(t, t) - _kernel(t.square().sum(1) / t.shape[1]).sum())
                 / (len(t) * (len(t) - 1)) for t in (a, b))
    return (within - 2 * _kernel_sum(a, b) / (len(a) * len(b))).item()


def _kernel_sum(a: Tensor, b: Tensor, rows: int = 1_000) -> Tensor:
    """The kernel summed over all pairs, so many rows of `a` at a time."""
    return sum(_kernel(block @ b.T / a.shape[1]).sum() for block in a.split(rows))


def _kernel(product: Tensor) -> Tensor:
    """The kernel, of products x·y / d."""
    return (product + 1) ** 3


def directions(features: Tensor) -> Tensor:
    """The features at one length, so that x·y / d is the cosine of two; zeros stay zeros."""
    return torch.nn.functional.normalize(features, dim=1) * math.sqrt(features.shape[1])


# ---- neighbours


def recall_and_coverage(real: Tensor, made: Tensor, k: int = 5, most: int = 2_000,
                        ) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A point's ball reaches to its k-th nearest neighbour in its own set. Precision: the share of
    made images in some real image's ball; recall: of real ones in some made image's; density: how
    many real balls hold a made image, over k; coverage: the share of real balls that hold one. Of
    either set the first `most` count; nan where one has not more than k.
    """
    from sklearn.metrics.pairwise import euclidean_distances  # here, as it takes a second
    from sklearn.neighbors import NearestNeighbors

    names = ("precision", "recall", "density", "coverage")
    real, made = (t[:most].double().cpu().numpy() for t in (real, made))
    if min(len(real), len(made)) <= k:
        return dict.fromkeys(names, math.nan)
    reach_real, reach_made = (
        NearestNeighbors(n_neighbors=k, algorithm="brute").fit(t).kneighbors()[0][:, -1]
        * (1 + 1e-6) for t in (real, made))                 # rounding puts no neighbour outside
    apart = euclidean_distances(real, made)                 # (real, made)
    inside, reached = apart <= reach_real[:, None], apart <= reach_made
    found = (inside.any(0), reached.any(1), inside.sum(0) / k, inside.any(1))
    return {name: float(each.mean()) for name, each in zip(names, found, strict=True)}


# ---- frequencies


def power_spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Frequencies in cycles per pixel, up to ½, and the grey images' mean power at each.

    An average over rings of the plane of frequencies. White noise has its variance everywhere. A
    Hann window fades the borders out, whose jumps would put power at every frequency.
    """
    grey = as_pixels(images).mean(1).double()
    side = grey.shape[-1]
    fade = torch.hann_window(side + 2, periodic=False, dtype=torch.float64)[1:-1]
    window = fade[:, None] * fade
    level = (grey * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((grey - level) * window).abs().square().mean(0) / window.square().sum()
    steps = torch.fft.fftfreq(side) * side                  # cycles over the image
    ring = torch.hypot(steps[:, None], steps).round().long().flatten()
    mean = torch.bincount(ring, power.flatten()) / torch.bincount(ring)
    return torch.arange(1, side // 2 + 1) / side, mean[1 : side // 2 + 1]
