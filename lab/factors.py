"""How far single latent dimensions stand for known factors: MIG, DCI, and both on turned axes.

Codes are (N, d) and factors (N, F), on the CPU, of the same images. A factor has two values or is
a number; nothing here suits one of many kinds without an order.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import entropy, rankdata
from sklearn.ensemble import ExtraTreesRegressor
from torch import Tensor

from lab.latent import random_axes
from lab.linear import mean_and_error

BINS = 20               # of equal counts


class Score(NamedTuple):
    """MIG or DCI of some codes, and what is left of it when the same codes are turned."""

    own: float
    turned: float                   # a mean over turns
    ratio: float                    # of both
    error: float                    # the ratio's standard error, over turns


def against_turned(measure: Callable[[Tensor, Tensor], float], codes: Tensor, factors: Tensor,
                   seed: int, turns: int) -> Score:
    """A measure beside its mean on axes that are turned at random.

    The codes are turned as they come: neither the prior nor what a decoder can learn depends on
    such a turn. At unit spread a faint dimension would take as large a part in every new axis as a
    strong one, and the null would be lower; so it would if dead dimensions were turned along.
    """
    d, own = codes.shape[1], measure(codes, factors)
    mean, error = mean_and_error(torch.tensor(
        [measure(codes @ random_axes(d, seed + k), factors) for k in range(turns)]))
    return Score(own, mean, own / mean, own / mean * error / mean)


# ---- mutual information gap (Chen et al. 2018)


def mig(codes: Tensor, factors: Tensor) -> float:
    """By how much the dimension that tells most of a factor leads the second, as a share of the
    factor's entropy, a mean over factors: 1 if one dimension alone tells all of each."""
    told = mutual_information(codes, factors)
    nats = mutual_information(factors, factors).diagonal()          # (F,), what each has
    first, second = F.pad(told, (0, 0, 0, 1)).topk(2, 0).values     # a row of 0: d may be 1
    return ((first - second) / nats).mean().item()


def mutual_information(codes: Tensor, factors: Tensor) -> Tensor:
    """What each dimension tells of each factor, (d, F) nats, counted in bins.

    Counts alone would find 361 / 2N nats where nothing is told, with 20 bins each, and no such
    excess where all is. The number of cells that occur tells how much to take off (Miller 1955);
    what is left errs by a few thousandths of a nat for N = 4,000.
    """
    one, other = (F.one_hot(binned(each), BINS).float().flatten(1) for each in (codes, factors))
    joint = (one.T @ other).double().view(codes.shape[1], BINS, -1, BINS) / len(codes)
    rows, columns = joint.sum(3, keepdim=True), joint.sum(1, keepdim=True)
    nats = (torch.xlogy(joint, joint) - torch.xlogy(joint, rows * columns)).sum((1, 3))
    cells, r, c = ((part > 0).sum((1, 3)) for part in (joint, rows, columns))
    return nats - (cells - r - c + 1) / (2 * len(codes))


def binned(columns: Tensor) -> Tensor:
    """Which of BINS bins of equal counts each number is in, (N, k); equal numbers share theirs."""
    ranks = rankdata(columns.numpy(), axis=0)
    return torch.from_numpy((ranks - 0.5) * BINS / len(ranks)).long()


# ---- disentanglement of DCI (Eastwood & Williams 2018)


def dci(codes: Tensor, factors: Tensor) -> float:
    """How far trees that read the factors rely on each dimension for one factor alone."""
    return disentanglement(importances(codes, factors))


def importances(codes: Tensor, factors: Tensor) -> np.ndarray:
    """By how much each factor's trees rely on each dimension, (d, F), whose columns sum to 1.

    The trees are random, many times as fast as boosted ones, and shallow, as last splits follow
    noise. Regression does for two values, too: their variance is half of Gini's impurity.
    """
    trees = ExtraTreesRegressor(10, max_depth=8, random_state=0, n_jobs=torch.get_num_threads())
    return np.stack([trees.fit(codes.numpy(), factor).feature_importances_
                     for factor in factors.T.numpy()], 1)


def disentanglement(importance: np.ndarray) -> float:
    """1 less the entropy of what each dimension (d, F) is relied on for, as a share of ln F; a mean
    over dimensions, weighed by how much each is relied on."""
    used = importance[importance.sum(1) > 0]
    alone = 1 - entropy(used, axis=1, base=importance.shape[1])
    return np.average(alone, weights=used.sum(1)).item()
