"""Densities: Gaussians of codes, bounds by weighted draws, and what a loss says over 256 levels.

Images are uint8 (N, ...), x_hat floats of the same shape, sigma the decoder's standard deviation in
units of [0, 1]. Nats are minus the logarithm of an image's probability, (N,), in float64.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal, Normal

from lab.linear import Spectrum, covariance, linear_optimum, mean_and_error, mean_image
from lab.training import draw_codes

ROUNDING = 1 / (12 * 255 ** 2)  # the variance of a number that is only known to one level

# ---- Gaussians of codes


class Gaussian(NamedTuple):
    """A Gaussian in d dimensions, in float64: of latent codes, or of a classifier's features."""

    mean: Tensor  # (d,)
    covariance: Tensor  # (d, d)

    def sample(self, n: int, draw: Generator | None = None) -> Tensor:
        """n draws (n, d) in float64; directions without variance are allowed."""
        eps = torch.randn(n, len(self.mean), generator=draw, dtype=torch.float64)
        return self.mean + eps @ symmetric_root(self.covariance)


def gaussian_fit(points: Tensor) -> Gaussian:
    """The Gaussian with the mean and the unbiased covariance of the points (N, d)."""
    points = points.detach().double().cpu()
    return Gaussian(points.mean(0), torch.atleast_2d(points.T.cov()))


def aggregate_posterior(mu: Tensor, logvar: Tensor) -> Gaussian:
    """The Gaussian with mean and covariance of the mixture of all posteriors."""
    means = gaussian_fit(mu)
    return Gaussian(means.mean, means.covariance + logvar.double().exp().mean(0).diag())


def symmetric_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a positive semidefinite matrix."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T


def kl_gaussian_to_standard(mean: Tensor, covariance: Tensor) -> float:
    """KL(N(mean, covariance) || N(0, I)) in nats, over all dimensions together."""
    return (covariance.trace() + mean @ mean - len(mean) - covariance.logdet()).item() / 2


def log_densities(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """ln of the density of each of N posteriors at points z (M, d), (M, N), in float64."""
    z, mu, precision = z.double(), mu.double(), logvar.double().neg().exp()
    rest = (mu ** 2 * precision + logvar).sum(1) + mu.shape[1] * math.log(2 * math.pi)  # (N,)
    powers, weights = torch.cat([z, z ** 2], 1), torch.cat([mu * precision, -precision / 2], 1)
    return torch.addmm(-rest / 2, powers, weights.T)  # one product: what is added takes longer


def log_mixture(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """ln of the mean density of N posteriors at points z (M, d), (M,)."""
    parts = [log_densities(part, mu, logvar).logsumexp(1) for part in z.split(500)]
    return torch.cat(parts) - math.log(len(mu))


def information(mu: Tensor, logvar: Tensor, samples: int, draw: Generator) -> tuple[float, float]:
    """What a code z ~ q(z|x) tells of which of the N images x is, at most ln N nats, and its error.

    The mean KL less this is the KL of the mixture q_N(z) from the prior. It is found so because the
    mean of ln q_N(z) - ln p(z) over the same draws has an error many times as large.
    """
    mu, logvar = mu.double(), logvar.double()
    some = torch.randperm(len(mu), generator=draw)[:samples]
    z = draw_codes(mu[some], logvar[some], draw)
    own = Normal(mu[some], (logvar[some] / 2).exp()).log_prob(z).sum(1)
    every = log_densities(z, mu, logvar)
    every[torch.arange(len(some)), some] = own  # without rounding, where variances are tiny
    return mean_and_error(own - every.logsumexp(1) + math.log(len(mu)))


def posterior_distances(mu: Tensor, logvar: Tensor) -> Tensor:
    """The Bhattacharyya distance of every two posteriors, (N, N): -ln of the integral of
    sqrt(q_a(z) q_b(z)), their overlap; infinite between one and itself."""
    variance, quarter = logvar.exp(), logvar.sum(1) / 4
    found = torch.full((len(mu), len(mu)), math.inf)
    for i in range(1, len(mu)):
        both = (variance[:i] + variance[i]) / 2
        parts = (mu[:i] - mu[i]) ** 2 / both + 4 * both.log()
        found[i, :i] = found[:i, i] = parts.sum(1) / 8 - quarter[:i] - quarter[i]
    return found


def median_nearest(distances: Tensor) -> float:
    """The median over (N, N) distances of that to the nearest one."""
    return distances.min(1).values.median().item()


# ---- weighted draws


def importance_bounds(error: Callable[[Tensor], Tensor], mu: Tensor, logvar: Tensor,
                      counts: Sequence[int], draw: Generator) -> dict[int, Tensor]:
    """Bounds on -ln p(x) from so many weighted draws z of every image's posterior (Burda et al.
    2016), nats (N,): one draw gives the negative ELBO, more come nearer to -ln p(x).

    `error` gives -ln p(x|z), (N,), for a code (N, d) of every image. A bound of few draws is the
    mean over as many groups of them as there are among the most.
    """
    weights = []
    for _ in range(max(counts)):
        eps = torch.randn(mu.shape, generator=draw)
        z = mu + (logvar / 2).exp() * eps
        log_ratio = (z.double() ** 2 - eps ** 2 - logvar).sum(1) / 2  # ln q(z|x) - ln p(z)
        weights.append(-error(z).double() - log_ratio)
    weights = torch.stack(weights)  # (draws, N), ln of p(x, z) / q(z|x)
    return {k: -torch.stack([group.logsumexp(0) - math.log(k)
                             for group in weights.split(k) if len(group) == k]).mean(0)
            for k in counts}


# ---- bits


def bits(nats: Tensor, values: int) -> tuple[float, float]:
    """The mean bits for each of the values of an image, and its standard error over images."""
    mean, error = mean_and_error(nats)
    return mean / (values * math.log(2)), error / (values * math.log(2))


# ---- a Gaussian for each value


def log_between(low: Tensor, high: Tensor) -> Tensor:
    """ln of a standard normal's mass from low to high, float64, precise in both far tails."""
    right = low + high > 0  # there, the mirrored interval's
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    below_low, below_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return below_high + torch.log1p(-torch.exp(below_low - below_high))


def kept_nats(images: Tensor, x_hat: Tensor, sigma: float) -> Tensor:
    """Of the Gaussian cut off half a level outside [0, 1] and normalised again: the kindest way."""
    def log_mass(low: Tensor | float, high: Tensor | float) -> Tensor:      # between two levels
        return log_between(*((edge / 255 - x_hat.double()) / sigma for edge in (low, high)))

    level = images.double()
    return (log_mass(-0.5, 255.5) - log_mass(level - 0.5, level + 0.5)).flatten(1).sum(1)


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


def closed_nats(known: Spectrum, sigma2: float, latent: int) -> float:
    """-ELBO of the best linear VAE as a density, the mean over the images of the spectrum."""
    best = linear_optimum(known, sigma2, latent)
    normal = len(known.mean) / 2 * math.log(2 * math.pi * sigma2 * 255 ** 2)
    return best.loss(1 / (2 * sigma2)) + normal


class FullGaussian(NamedTuple):
    """A Gaussian over all values of an image at once, without any latent variable."""

    normal: MultivariateNormal
    level: float  # what (x - mean)^T covariance^-1 (x - mean) grows by inside a level, a mean

    def nats(self, images: Tensor) -> Tensor:
        """At least -ln of the mass over every value's bin: its mean log density there (Jensen)."""
        x = images.flatten(1).double() / 255
        return x.shape[1] * math.log(255) - self.normal.log_prob(x) + self.level / 2

    def sample(self, n: int, draw: Generator | None = None) -> Tensor:
        """n draws (n, D), not confined to [0, 1]."""
        eps = torch.randn(n, len(self.normal.mean), generator=draw, dtype=torch.float64)
        return self.normal.mean + eps @ self.normal.scale_tril.T


def full_gaussian(images: Tensor) -> FullGaussian:
    """The Gaussian with the images' mean and covariance, each value spread over its level."""
    mean = mean_image(images)
    spread = covariance(images, mean)
    spread.diagonal().add_(ROUNDING)
    root = torch.linalg.cholesky(spread)
    level = ROUNDING * torch.cholesky_inverse(root).trace().item()
    return FullGaussian(MultivariateNormal(mean, scale_tril=root), level)
