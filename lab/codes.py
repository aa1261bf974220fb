"""What latent codes tell: which dimensions of two models correspond, what probes read in them,
whether they come from a density, and what an edit of a code changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from lab import measures
from lab.show import finite
from lab.training import decode_set, generator
from vae_helpers import VAE

TURNS = 5               # times that axes are turned, for a mean

# ---- which dimensions of two models correspond


class Match(NamedTuple):
    """Dimensions of two codes, each with the one it goes with; the best matched come first."""

    pairs: Tensor  # (k, 2), a dimension of each
    rho: Tensor  # (k,), the size of Spearman's correlation, falling
    sign: Tensor  # (k,), -1 where one falls as the other rises


def match(a: Tensor, b: Tensor) -> Match:
    """The one-to-one matching of dimensions with the largest sum of |Spearman|.

    `a` (N, d) and `b` (N, e) are codes of the same N images; k is the smaller of d and e.
    """
    return _assigned(_standard_ranks(a).T @ _standard_ranks(b))


def chance_level(a: Tensor, b: Tensor, draws: int = 20, seed: int = 0,
                 share: float = 0.99) -> float:
    """What that share of matched |rho| stays below where images of b are shuffled.

    The shuffled codes are matched afresh, so the level allows for the search for the best partner.
    """
    a, b = _standard_ranks(a), _standard_ranks(b)
    draw = np.random.default_rng(seed)
    found = [_assigned(a.T @ draw.permutation(b)).rho for _ in range(draws)]
    return torch.cat(found).quantile(share).item()


def turned(codes: Tensor, seed: int) -> Tensor:
    """The codes on other axes: each dimension at unit spread, then all turned at random.

    They tell the same, but what one dimension told is now spread over all.
    """
    scaled = (codes - codes.mean(0)) / codes.std(0).clamp(min=1e-12)
    draw = torch.randn(2 * (codes.shape[1],), generator=generator("cpu", seed, "turned"))
    return scaled @ torch.linalg.qr(draw).Q


def read_linearly(a: Tensor, b: Tensor) -> float | None:
    """R² of codes b (N, e) from codes a (N, d) by least squares, fitted on one half of the images
    and judged on the other; None where there are too few."""
    half = len(a) // 2
    if half < a.shape[1] + 2:
        return None
    x = torch.cat([a, torch.ones(len(a), 1)], 1).double()
    y = b.double()
    fitted = torch.linalg.lstsq(x[:half], y[:half]).solution
    lost = (y[half:] - x[half:] @ fitted).square().sum()
    return finite(1 - lost / (y[half:] - y[half:].mean(0)).square().sum())


def equal_indices(a: Tensor, b: Tensor, dims: list[int]) -> float | None:
    """The mean size of Spearman's correlation of dimensions of the same index."""
    both = _standard_ranks(a[:, dims]) * _standard_ranks(b[:, dims])
    return float(np.abs(both.sum(0)).mean()) if dims else None


def match_live(a: Tensor, b: Tensor, live_a: Tensor, live_b: Tensor) -> Match:
    """`match` among some dimensions of both, which keep their indices."""
    found = match(a[:, live_a], b[:, live_b])
    pairs = torch.stack([live_a[found.pairs[:, 0]], live_b[found.pairs[:, 1]]], 1)
    return found._replace(pairs=pairs)


def correspondence(a: Tensor, b: Tensor, live_a: Tensor, live_b: Tensor,
                   seed: int) -> dict[str, float | None]:
    """How far live dimensions of two codes of the same images go together, with two nulls: images
    shuffled, and the second code turned to other axes."""
    both = sorted(set(live_a.tolist()) & set(live_b.tolist()))
    left, right = a[:, live_a], b[:, live_b]
    rho = match(left, right).rho
    chance = chance_level(left, right, seed=seed)
    return {"rho": finite(rho.mean()), "chance": finite(chance),
            "above": finite((rho > chance).double().mean()),
            "turned": finite(torch.cat([match(left, turned(right, seed + k)).rho
                                        for k in range(TURNS)]).mean()),
            "same": equal_indices(a, b, both), "read": read_linearly(left, right)}


def one_factor(codes: Tensor, attributes: Tensor) -> float | None:
    """How much of what single dimensions tell of attributes is about the one each tells most of.

    Of squared correlations: the largest of each dimension, summed, over the sum of all.
    """
    shares = measures.attribute_correlation(codes, attributes).square()
    return finite(shares.amax(1).sum() / shares.sum())


def _standard_ranks(codes: Tensor) -> np.ndarray:
    """Each column's ranks (N, d), centred and of length 1; a constant column is 0."""
    ranks = rankdata(codes.detach().cpu().numpy(), axis=0)
    ranks -= ranks.mean(0)
    return ranks / np.linalg.norm(ranks, axis=0).clip(min=1e-12)


def _assigned(correlation: np.ndarray) -> Match:
    """The assignment of rows to columns with the largest sum of sizes."""
    pairs = np.stack(linear_sum_assignment(np.abs(correlation), maximize=True), 1)
    rho = torch.from_numpy(correlation[tuple(pairs.T)])
    order = rho.abs().argsort(descending=True, stable=True)
    sign = torch.where(rho < 0, -1, 1)
    return Match(torch.from_numpy(pairs)[order], rho.abs()[order], sign[order])


# ---- what a probe reads

PENALTY = 0.1  # C: of 0.001 to 1 it reads held-out faces best, from codes and from PCA scores alike


class Probe(NamedTuple):
    """A logistic regression of an attribute on standardised codes, as one affine map of codes."""

    weight: Tensor  # (d,), of the codes as they come
    bias: float
    scale: Tensor  # (d,), the standard deviations that one step in a dimension is counted in
    share: float  # of its training faces have the attribute

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


def fit_probes(codes: Tensor, labels: Tensor, names: tuple[str, ...]) -> dict[str, Probe]:
    """The probe of every attribute that some of the faces have and some lack.

    Several are fitted at a time, each by one thread, so that nothing depends on their number.
    """
    standard = StandardScaler().fit(codes.numpy())
    x, scale = standard.transform(codes.numpy()), torch.from_numpy(standard.scale_).double()
    centre = torch.from_numpy(standard.mean_).double()

    def probe(has: Tensor) -> Probe:
        fitted = LogisticRegression(C=PENALTY, max_iter=1000).fit(x, has.numpy())
        weight = torch.from_numpy(fitted.coef_[0]).double() / scale
        bias = float(fitted.intercept_[0]) - (weight @ centre).item()
        return Probe(weight, bias, scale, has.double().mean().item())

    kinds = varied(labels, names)
    with threadpool_limits(1):
        fitted = Parallel(torch.get_num_threads(), prefer="threads")(
            delayed(probe)(has) for has in kinds.values())
    return dict(zip(kinds, fitted, strict=True))


class Reading(NamedTuple):
    """How well a probe reads one attribute of faces that it never saw."""

    share: float  # of these faces have it
    auc: float
    balanced: float  # accuracy, a mean of both kinds, at the odds of the training faces
    accuracy: float  # at even odds
    majority: float  # accuracy of the answer that most training faces give
    parts: Tensor  # (N,), each face's part in the AUC


def auc_parts(scores: Tensor, has: Tensor) -> Tensor:
    """Each face's part (N,) in the AUC: their mean is the AUC, their standard error its own.

    It is DeLong's error. Of two scores of the same faces, the error of the parts' difference is
    that of the AUCs' difference.
    """
    has = has.bool()
    ranks = torch.from_numpy(rankdata(scores.numpy())).double()
    right = torch.empty(len(has), dtype=torch.float64)     # of the other kind, ordered rightly
    for kind, sign in ((has, 1), (~has, -1)):
        own = torch.from_numpy(rankdata(scores[kind].numpy()))
        below = (ranks[kind] - own) / (~kind).sum()
        right[kind] = below if sign > 0 else 1 - below
    auc, n = right[has].mean(), len(has)
    return auc + (right - auc) * torch.where(has, n / has.sum(), n / (~has).sum())


def read(probes: dict[str, Probe], codes: Tensor, labels: Tensor,
         names: tuple[str, ...]) -> dict[str, Reading]:
    """What each probe reads from codes (N, d), of attributes that some of the faces have."""
    found = {}
    for name, has in varied(labels, names).items():
        if name in probes:
            probe, logit = probes[name], probes[name].logit(codes)
            odds = math.log(probe.share / (1 - probe.share))
            found[name] = Reading(
                has.double().mean().item(), float(roc_auc_score(has.numpy(), logit.numpy())),
                float(balanced_accuracy_score(has.numpy(), (logit > odds).numpy())),
                ((logit > 0) == has).double().mean().item(),
                (has == (probe.share > 0.5)).double().mean().item(), auc_parts(logit, has))
    return found


def mean_auc(readings: dict[str, Reading]) -> Tensor:
    """Each face's part (N,) in the mean AUC over attributes."""
    return torch.stack([reading.parts for reading in readings.values()]).mean(0)


# ---- whether codes come from a density


def whitening(points: Tensor) -> Callable[[Tensor], Tensor]:
    """The map to the axes of the points' covariance, each at unit spread, and its norm beside
    them, which no affine map of the points changes. Axes without spread are left out."""
    points = points.double()
    mean, (spread, axes) = points.mean(0), torch.linalg.eigh(points.T.cov())
    kept = spread > 1e-9 * spread[-1].clamp(min=1e-300)
    axes = axes[:, kept] / spread[kept].sqrt()

    def map_to(codes: Tensor) -> Tensor:
        white = (codes.double() - mean) @ axes
        return torch.cat([white, white.norm(dim=1, keepdim=True)], 1)

    return map_to


def two_sample_auc(codes: Tensor, draws: Tensor) -> tuple[float | None, float | None]:
    """How well boosted trees tell codes (N, d) from a density's draws (M, d): the AUC on the halves
    that they never saw, and DeLong's error; ½ if both are of one density. None for too few.

    The trees see where a code lies on each axis and how far out it is, so that equal means and
    covariances do not hide another shape.
    """
    (seen, held), (seen_draws, held_draws) = (t.tensor_split(2) for t in (codes, draws))
    if not codes.shape[1] or min(len(seen), len(seen_draws)) < codes.shape[1] + 2:
        return None, None
    features = whitening(torch.cat([seen, seen_draws]))

    def both(a: Tensor, b: Tensor) -> tuple[np.ndarray, Tensor]:
        is_code = torch.cat([torch.ones(len(a)), torch.zeros(len(b))]).bool()
        return features(torch.cat([a, b])).numpy(), is_code

    (x, is_code), (x_held, is_held) = both(seen, seen_draws), both(held, held_draws)
    with threadpool_limits(1):                          # the same trees whatever their number
        trees = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=0)
        scores = trees.fit(x, is_code.numpy()).decision_function(x_held)
    return tuple(map(finite, measures.mean_and_error(
        auc_parts(torch.from_numpy(scores), is_held))))


# ---- what an edit changes


def edit_steps(probes: dict[str, Probe], codes: Tensor, labels: Tensor,
               names: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Three ways to add an attribute to a code: each attribute's step by way, (d,).

    The mean difference between faces with the attribute and without; what of it remains where faces
    are equal in the other probed attributes, by least squares; and the probe's own direction. All
    three raise the probe's logit by as much as the mean difference does.
    """
    codes = codes.double()
    kinds = varied(labels, names)
    has = {name: kinds[name] for name in probes if name in kinds}
    apart = {name: codes[kind].mean(0) - codes[~kind].mean(0) for name, kind in has.items()}
    columns = torch.stack([torch.ones(len(codes)), *has.values()], 1).double()
    equal = dict(zip(has, torch.linalg.lstsq(columns, codes).solution[1:], strict=True))
    steepest = {name: probes[name].direction for name in has}

    def as_far(steps: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: step * (probes[name].weight @ apart[name]) / (probes[name].weight @ step)
                for name, step in steps.items()}

    return {"mean difference": apart, "at equal others": as_far(equal),
            "probe's direction": as_far(steepest)}


def effect(model: VAE, mu: Tensor, has: Tensor, step: Tensor,
           readers: Callable[[Tensor], Tensor], before: Tensor) -> Tensor:
    """What readers of images see change by an edit of their codes (N, d), (N, readers).

    Codes of faces that lack the attribute take the step; those of faces that have it take it
    backwards, and what changes there counts with the other sign. `before` is what the readers say
    of the codes decoded as they are, since these differ from the images already.
    """
    sign = torch.where(has.bool(), -1.0, 1.0)[:, None]
    return sign * (readers(decode_set(model, (mu + sign * step).float())) - before)
