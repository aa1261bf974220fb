"""What latent codes tell: their KL and density, what the decoder makes of them, which dimensions of
two models correspond, what probes read in them, and what an edit of them changes.

Codes mu and logvar are (N, d), on the CPU. Nats are those of one image.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Generator, Tensor

from lab.linear import RateDistortion, mean_and_error
from lab.show import finite
from lab.training import batch_of, decode_set, draw_codes, encode_set, generator, logits_at
from vae_helpers import VAE, as_pixels, kl_divergence, reconstruction_error

TURNS = 5  # times that axes are turned, for a mean
PENALTY = 0.1  # C: of 0.001 to 1 it reads held-out faces best, from codes and PCA scores alike

# ---- KL


def live(kl: Tensor, threshold: float = 0.01) -> Tensor:
    """The dimensions whose KL, (N, d) or its mean (d,), is above so many nats, in their order."""
    return (torch.atleast_2d(kl).double().mean(0) > threshold).nonzero().flatten()


def degrees_of_freedom(logvar: Tensor) -> float:
    """The sum over dimensions of the mean of 1 - sigma_j²: an unused one adds 0, an exact one 1."""
    return -logvar.double().expm1().mean(0).sum().item()


# ---- gradients through a draw


class Gradients(NamedTuple):
    """Single-sample estimates of d E[f(z)] / d mu, each (samples, d), of equal mean."""

    pathwise: Tensor  # df/dz, through z = mu + sigma eps
    score_with_baseline: Tensor  # d ln q(z) / d mu times f(z) less its mean over the other samples
    value: Tensor  # f(z), (samples,)


def cost_of_codes(model: VAE, image: Tensor) -> Callable[[Tensor], Tensor]:
    """The reconstruction error of one uint8 image (1, 3, H, W) as a differentiable function of
    codes (n, d), which it is decoded from; (n,)."""
    device = next(model.parameters()).device
    x = as_pixels(image, device)

    def cost(z: Tensor) -> Tensor:
        logits = model.decode(z.to(device)).float()
        return reconstruction_error(model.recipe, logits, x.expand(logits.shape)).to(z.device)

    return cost


def pathwise_and_score_gradients(f: Callable[[Tensor], Tensor], mu: Tensor, logvar: Tensor,
                                 samples: int, draw: Generator | None = None) -> Gradients:
    """Both gradient estimators of E[f(z)], z ~ N(mu, exp(logvar)), from the same draws.

    `f` takes z (samples, d) and returns (samples,), differentiably; `mu` and `logvar` are (d,).
    """
    sigma = (logvar.detach() / 2).exp()
    eps = torch.randn(samples, len(mu), generator=draw, dtype=mu.dtype)
    z = (mu.detach() + sigma * eps).requires_grad_()
    value = f(z)
    (pathwise,) = torch.autograd.grad(value.sum(), z)
    value = value.detach()[:, None]
    others = (value.sum() - value) / (samples - 1)
    return Gradients(pathwise, (value - others) * eps / sigma, value[:, 0])


# ---- rate and distortion


def rate_and_distortion(model: VAE, images: Tensor, seed: int) -> tuple[float, float]:
    """KL, and the squared error of decoded draws from the posterior, of uint8 images."""
    mu, logvar = encode_set(model, images)
    z = draw_codes(mu, logvar, generator("cpu", seed, "rate and distortion"))
    error = (as_pixels(images) - decode_set(model, z)).square().sum((1, 2, 3))
    return kl_divergence(mu, logvar).sum(1).mean().item(), error.mean().item()


def against_linear(rate: float, error: float, curve: RateDistortion) -> float | None:
    """A squared error as a share of the linear curve's at that rate; None beyond its ends."""
    rising = curve.rate.argsort()
    rates, errors = curve.rate[rising].numpy(), curve.distortion[rising].numpy()
    return finite(error / np.interp(rate, rates, errors, left=math.nan, right=math.nan))


def ratio_of_means(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The mean of a (n,) over that of b, of the same images, and its standard error."""
    ratio = (a.mean() / b.mean()).item()
    _, error = mean_and_error(a - ratio * b)
    return ratio, error / b.mean().item()


# ---- what the decoder makes of a code


def errors_at(model: VAE, images: Tensor, z: Tensor) -> Tensor:
    """The reconstruction error of every uint8 image decoded from its latent vector, (N,)."""
    return reconstruction_error(model.recipe, logits_at(model, z), as_pixels(images))


def noise_cost(model: VAE, images: Tensor, mu: Tensor, logvar: Tensor, draw: Generator) -> Tensor:
    """E f(mu + sigma eps) - f(mu), the nats that the noise costs each reconstruction, (N,)."""
    noisy = sum(errors_at(model, images, draw_codes(mu, logvar, draw)) for _ in range(8)) / 8
    return noisy - errors_at(model, images, mu)


def shaken(mu: Tensor, shape: Tensor, scale: float, draw: Generator) -> Tensor:
    """Codes with noise of `scale` times the covariance's square root `shape` (d, d)."""
    return mu + scale * (torch.randn(mu.shape, generator=draw) @ shape.to(mu))


def curvatures(model: VAE, images: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The reconstruction's second derivative along every dimension at mu, (N, d): the second
    difference over one posterior standard deviation to either side."""
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


def curvature_law(curvature: Tensor, logvar: Tensor, beta: float) -> Law:
    """The measured variances (N, d) beside those that follow from the curvature (N, d).

    Both sides are averaged over images first, as 1 / sigma² and H, in which the law is linear. The
    line goes through logarithms because there a dimension that is not used lies at the origin.
    """
    precision, n = logvar.double().neg().exp(), len(logvar)
    if n < 2:
        return Law(math.nan, math.nan)

    def logs(curvature: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        return (1 + curvature.clamp(min=0) / beta).log(), precision.log()

    def slope(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(-1) / x.square().sum(-1)

    whole = slope(*logs(curvature.mean(0), precision.mean(0)))
    without = slope(*logs(*((t.sum(0) - t) / (n - 1) for t in (curvature, precision))))  # (N,)
    return Law(whole.item(), (without.var(unbiased=False) * (n - 1)).sqrt().item())


def traverse(model: VAE, mu: Tensor, dim: int, reach: float, steps: int = 7) -> Tensor:
    """Decodings (steps, ...) of a code (1, d) one of whose dimensions goes from -reach to reach."""
    z = mu.repeat(steps, 1)
    z[:, dim] = torch.linspace(-reach, reach, steps)
    return decode_set(model, z)


def largest_move(model: VAE, mu: Tensor, dim: int) -> float:
    """The grey levels that one dimension moves the pixel it moves most, from -3 to 3, at the mean
    code."""
    frames = traverse(model, mu.mean(0, keepdim=True), dim, 3.0)
    return 255 * (frames.amax(0) - frames.amin(0)).max().item()


def step_size(model: VAE, mu: Tensor, used: Tensor, draw: Generator, step: float = 0.5) -> float:
    """The grey levels by which a step of this length from codes (N, d), each in a direction of its
    own among the used dimensions, moves a pixel, as a root mean square."""
    directions = torch.zeros(mu.shape)
    directions[:, used] = F.normalize(torch.randn(len(mu), len(used), generator=draw))
    moved = decode_set(model, mu + step * directions) - decode_set(model, mu)
    return 255 * moved.square().mean().sqrt().item()


def main_direction(mu: Tensor) -> tuple[float, float]:
    """The part of the variance of codes (N, d) that is along one direction, and over how many axes
    that direction spreads: 1 if it is an axis, d if it lies between all (the participation ratio).
    """
    variances, directions = torch.linalg.eigh(mu.double().T.cov())
    return (variances[-1] / variances.sum()).item(), 1 / directions[:, -1].pow(4).sum().item()


def amortisation_gap(model: VAE, images: Tensor, seed: int, steps: int = 100,
                     ) -> tuple[float, float]:
    """Nats that fitting mu and logvar to each image gains over the encoder; standard error."""
    device = next(model.parameters()).device
    x = batch_of(model.recipe, images, slice(None), device)
    draw = generator(device, seed, "amortisation")

    def loss(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
        logits = model.decode(model.reparameterize(mu, logvar, eps))
        error = reconstruction_error(model.recipe, logits, x, getattr(model, "log_sigma", None))
        return error + model.recipe.beta * kl_divergence(mu, logvar).sum(1)

    with torch.no_grad():
        start = model.encode(x)
    mu, logvar = (t.clone().requires_grad_() for t in start)
    fresh = torch.randn(8, *mu.shape, generator=draw, device=device)
    optimizer = torch.optim.Adam([mu, logvar], lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        eps = torch.randn(mu.shape, generator=draw, device=device)
        mu.grad, logvar.grad = torch.autograd.grad(loss(mu, logvar, eps).sum(), (mu, logvar))
        optimizer.step()
    with torch.no_grad():
        gained = torch.stack([loss(*start, eps) - loss(mu, logvar, eps) for eps in fresh]).mean(0)
    return mean_and_error(gained)


# ---- which dimensions of two models correspond


class Match(NamedTuple):
    """Dimensions of two codes, each with the one it goes with; the best matched come first."""

    pairs: Tensor  # (k, 2), a dimension of each
    rho: Tensor  # (k,), the size of Spearman's correlation, falling
    sign: Tensor  # (k,), -1 where one falls as the other rises


def standard(columns: Tensor) -> Tensor:
    """The columns (N, k) at mean 0 and unit spread, in float64; a constant one is 0."""
    return torch.from_numpy(StandardScaler().fit_transform(columns.double().numpy()))


def ranked(codes: Tensor) -> Tensor:
    """Every dimension's ranks (N, d), standardised: Spearman's rho is their mean product."""
    return standard(torch.from_numpy(rankdata(codes.numpy(), axis=0)))


def match(a: Tensor, b: Tensor) -> Match:
    """The one-to-one matching of the dimensions of two codes of the same images, (N, d) and (N, e),
    with the largest sum of |Spearman|."""
    rho = ranked(a).T @ ranked(b) / len(a)
    i, j = map(torch.from_numpy, linear_sum_assignment(rho.abs(), maximize=True))
    order = rho[i, j].abs().argsort(descending=True, stable=True)
    pairs, rho = torch.stack([i, j], 1)[order], rho[i, j][order]
    return Match(pairs, rho.abs(), torch.where(rho < 0, -1, 1))


def match_live(a: Tensor, b: Tensor, live_a: Tensor, live_b: Tensor) -> Match:
    """`match` among some dimensions of both, which keep their indices."""
    found = match(a[:, live_a], b[:, live_b])
    pairs = torch.stack([live_a[found.pairs[:, 0]], live_b[found.pairs[:, 1]]], 1)
    return found._replace(pairs=pairs)


def random_axes(d: int, seed: int) -> Tensor:
    """A random turn of d dimensions, (d, d)."""
    return torch.linalg.qr(torch.randn(d, d, generator=generator("cpu", seed, "turned"))).Q


def turned(codes: Tensor, seed: int) -> Tensor:
    """The codes at unit spread on random axes: they tell the same, but no dimension by itself."""
    return standard(codes).to(codes) @ random_axes(codes.shape[1], seed)


def read_linearly(a: Tensor, b: Tensor) -> float | None:
    """R² of codes b (N, e) from codes a (N, d) by least squares, fitted on one half of the images
    and judged on the other; None where there are too few."""
    half = len(a) // 2
    if half < a.shape[1] + 2:
        return None
    fitted = LinearRegression().fit(a[:half].numpy(), b[:half].numpy())
    guess = fitted.predict(a[half:].numpy())
    return finite(r2_score(b[half:].numpy(), guess, multioutput="variance_weighted"))


class Correspondence(NamedTuple):
    """How far the dimensions of two codes of the same images go together."""

    rho: float | None  # mean |Spearman| of matched dimensions
    turned: float | None  # the same with the second code on axes turned at random
    same: float | None  # mean |Spearman| of dimensions of one index, of those that both have
    read: float | None  # R² of the second code from the first, by least squares


def correspondence(a: Tensor, b: Tensor, live_a: Tensor, live_b: Tensor,
                   seed: int) -> Correspondence:
    """How live dimensions of two codes correspond, with turned axes as the null."""
    one, other, both = a[:, live_a], b[:, live_b], live_a[torch.isin(live_a, live_b)]
    turns = [match(one, turned(other, seed + k)).rho for k in range(TURNS)]
    return Correspondence(
        finite(match(one, other).rho.mean()), finite(torch.cat(turns).mean()),
        finite((ranked(a[:, both]) * ranked(b[:, both])).mean(0).abs().mean()),
        read_linearly(one, other))


def attribute_correlation(codes: Tensor, attributes: Tensor) -> Tensor:
    """Pearson's correlation (d, K) of codes with attributes (N, K); 0 where one is constant."""
    return standard(codes).T @ standard(attributes) / len(codes)


def one_factor(codes: Tensor, attributes: Tensor) -> float | None:
    """How much of what single dimensions tell of attributes is about the one each tells most of:
    the sum of the largest squared correlation of each dimension over the sum of all."""
    shares = attribute_correlation(codes, attributes).square()
    return finite(shares.amax(1).sum() / shares.sum())


def one_factor_turned(codes: Tensor, attributes: Tensor, seed: int) -> tuple[float, float]:
    """The same on axes turned at random, a mean over turns and its standard error."""
    shares = [one_factor(turned(codes, seed + k), attributes) for k in range(TURNS)]
    return mean_and_error(torch.tensor([math.nan if s is None else s for s in shares]))


# ---- what a probe reads


class Probe(NamedTuple):
    """A logistic regression of an attribute on standardised codes, as one affine map of codes."""

    weight: Tensor  # (d,), of the codes as they come
    bias: float
    scale: Tensor  # (d,), the standard deviations that one step in a dimension is counted in

    def logit(self, codes: Tensor) -> Tensor:
        """What it says of codes (N, d), above 0 where it would bet that they have it, (N,)."""
        return codes.double() @ self.weight + self.bias

    @property
    def direction(self) -> Tensor:
        """The direction (d,) in which the logit rises soonest, steps counted in `scale`."""
        return self.scale ** 2 * self.weight


def varied(labels: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Who has each attribute (N,), of those that some have and some lack."""
    columns = zip(names, labels.bool().T, strict=True)
    return {name: has for name, has in columns if has.any() and not has.all()}


def fit_probe(codes: Tensor, has: Tensor) -> Probe:
    """The probe of one attribute."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000))
    scaler, regression = model.fit(codes.numpy(), has.numpy())
    scale = torch.from_numpy(scaler.scale_).double()
    weight = torch.from_numpy(regression.coef_[0]).double() / scale
    bias = regression.intercept_.item() - (weight @ torch.from_numpy(scaler.mean_)).item()
    return Probe(weight, bias, scale)


def fit_probes(codes: Tensor, labels: Tensor, names: tuple[str, ...]) -> dict[str, Probe]:
    """The probe of every attribute that some of the faces have and some lack."""
    kinds = varied(labels, names)
    with threadpool_limits(1):  # a thread each, so that no bit depends on how many there are
        fitted = Parallel(torch.get_num_threads(), prefer="threads")(
            delayed(fit_probe)(codes, has) for has in kinds.values())
    return dict(zip(kinds, fitted, strict=True))


def auc_parts(scores: Tensor, has: Tensor) -> Tensor:
    """Each face's part (N,) in the AUC: their mean is the AUC, their standard error is DeLong's.

    Of two scores of the same faces, the error of the parts' difference is that of the AUCs'.
    """
    other, own = (~has).sum(), has.sum()
    below = torch.from_numpy(rankdata(scores.numpy()))  # of all faces; then of the other kind
    for kind in (has, ~has):
        below[kind] -= torch.from_numpy(rankdata(scores[kind].numpy()))
    right = torch.where(has, below / other, 1 - below / own)  # the share that is ordered rightly
    auc = right[has].mean()
    return auc + (right - auc) * len(has) / torch.where(has, own, other)


def read(probes: dict[str, Probe], codes: Tensor, labels: Tensor,
         names: tuple[str, ...]) -> dict[str, Tensor]:
    """Each face's part (N,) in the AUC with which each probe reads codes (N, d) that it never saw,
    of attributes that some of these faces have and some lack."""
    return {name: auc_parts(probes[name].logit(codes), has)
            for name, has in varied(labels, names).items() if name in probes}


def mean_auc(parts: dict[str, Tensor]) -> Tensor:
    """Each face's part (N,) in the mean AUC over attributes."""
    return torch.stack(list(parts.values())).mean(0)


def two_sample_auc(codes: Tensor, draws: Tensor) -> tuple[float | None, float | None]:
    """How well boosted trees tell codes (N, d) from a density's draws (M, d): the AUC on the half
    that they never saw, and DeLong's error; ½ if both are of one density. None for too few."""
    if not codes.shape[1] or min(len(codes), len(draws)) < 2 * (codes.shape[1] + 2):
        return None, None
    x = torch.cat([codes, draws]).double().numpy()
    is_code = torch.arange(len(x)) < len(codes)
    white = PCA(whiten=True).fit(x[::2]).transform(x)
    features = np.column_stack([white, np.linalg.norm(white, axis=1)])  # the norm shows the shape
    with threadpool_limits(1):  # the same trees whatever their number
        trees = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=0)
        trees.fit(features[::2], is_code[::2].numpy())
        scores = torch.from_numpy(trees.decision_function(features[1::2]))
    return tuple(map(finite, mean_and_error(auc_parts(scores, is_code[1::2]))))


# ---- what an edit changes


def edit_steps(probes: dict[str, Probe], codes: Tensor, labels: Tensor,
               names: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Three ways to add an attribute to a code: each attribute's step by way, (d,).

    The mean difference between faces with the attribute and without; what of it remains where faces
    are equal in the other probed attributes, by least squares; and the probe's own direction. All
    three raise the probe's logit by as much as the mean difference does.
    """
    codes = codes.double()
    has = {name: kind for name, kind in varied(labels, names).items() if name in probes}
    apart = {name: codes[kind].mean(0) - codes[~kind].mean(0) for name, kind in has.items()}
    columns = torch.stack([torch.ones(len(codes)), *has.values()], 1).double()
    equal = dict(zip(has, torch.linalg.lstsq(columns, codes).solution[1:], strict=True))
    ways = {"mean difference": apart, "at equal others": equal,
            "probe's direction": {name: probes[name].direction for name in has}}
    return {way: {name: step * (probes[name].weight @ apart[name]) / (probes[name].weight @ step)
                  for name, step in steps.items()} for way, steps in ways.items()}


def effect(model: VAE, mu: Tensor, has: Tensor, step: Tensor,
           readers: Callable[[Tensor], Tensor], before: Tensor) -> Tensor:
    """What readers of images see change by an edit of their codes (N, d), (N, readers).

    Faces that lack the attribute take the step, those that have it take it backwards, and what
    changes there counts with the other sign. `before` is what the readers say of the codes decoded
    as they are.
    """
    sign = torch.where(has.bool(), -1.0, 1.0)[:, None]
    return sign * (readers(decode_set(model, (mu + sign * step).float())) - before)
