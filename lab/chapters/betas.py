"""β at 128×128: what the weight of the KL does to a VAE of faces, predicted before any training."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from lab import latent
from lab.chapters.interpolation import STEPS, detour_of, doubling_exponent, paths_between
from lab.linear import (
    LinearOptimum,
    RateDistortion,
    Scores,
    Spectrum,
    curve_on,
    linear_on,
    linear_optimum,
    scores_of,
    spectrum,
)
from lab.notebook import Lab, needs, once
from lab.recipes import RECIPES, Training
from lab.runs import Run
from lab.samples import sharpness
from lab.show import Figure, Table, labelled_rows, number
from lab.training import decode_set, lerp
from vae_helpers import GREY, Recipe, as_pixels, kl_divergence, new_figure, style_of

BETAS = (1, 4, 10)
# The trainings, as findings call them. The earlier study compares "1_long" with "4" and "10".
NEEDED = {"1": Training("celeba128", epochs=5), "4": Training("celeba128-b4"),
          "10": Training("celeba128-b10"), "1_long": Training("celeba128")}
AGAIN = Training("celeba128", 1, epochs=5)
EQUAL = ("1", "4", "10")            # of equal epochs
STYLES = {"1_long": "celeba128", "4": "b4", "10": "b10"}
DIMS = (8, 25, 68)                  # those that the earlier study shows
LINEAR_BETAS = [10 ** (k / 5) for k in range(-5, 13)]   # of the linear curve, 0.1 to 250
LABEL, PAIRS, DOUBLED = 150, 32, 8  # pixels for a row's name; pairs of faces with ways between
REACH = 3.0                         # of a traversal, in the prior's standard deviations
trained = needs(*NEEDED.values())


@once
def runs(lab: Lab) -> dict[str, Run]:
    """The trainings by their keys; "1_seed1", another seed of β = 1, where it is there."""
    found = {key: lab.run(*training) for key, training in NEEDED.items()}
    return found | ({"1_seed1": lab.run(*AGAIN)} if lab.has(*AGAIN) else {})


def name_of(lab: Lab, key: str) -> str:
    """What a training is called where it is shown."""
    run, seed = runs(lab)[key], ", another seed" if key == "1_seed1" else ""
    epochs = f"{len(run.history)} epoch{'s' if len(run.history) > 1 else ''}"
    return f"β = {run.recipe.beta:g}, {epochs}{seed}"


def codes(lab: Lab, key: str) -> Tensor:
    """The means of the test faces' codes, (N, d)."""
    return lab.codes(runs(lab)[key])[0]


def nats_by_dimension(lab: Lab, key: str) -> Tensor:
    """KL of every dimension (d,), a mean over the test faces."""
    return kl_divergence(*lab.codes(runs(lab)[key])).double().mean(0)


def used(lab: Lab, key: str) -> Tensor:
    """The dimensions that carry more than 0.01 nats; all of them if none does."""
    nats = nats_by_dimension(lab, key)
    dims = latent.live(nats)
    return dims if len(dims) else torch.arange(len(nats))


# ---- what was predicted


class Predicted(NamedTuple):
    """What a linear VAE does at some β: its optimum on the training faces, and on test faces."""

    best: LinearOptimum
    rate: float         # KL of a test face
    error: float        # its squared error on [0, 1]


@once
def axes(lab: Lab) -> tuple[Spectrum, Scores]:
    """The training faces' principal axes, as many as there are latent dimensions, and the test
    faces on them."""
    faces = lab.splits("celeba128")
    known = spectrum(faces.train.images, RECIPES["celeba128"].latent)
    return known, scores_of(known, faces.test.images)


def predicted(lab: Lab, beta: float) -> Predicted:
    """The linear optimum for β."""
    (known, scores), recipe = axes(lab), RECIPES["celeba128"].but(beta=float(beta))
    return Predicted(linear_optimum(known, recipe.sigma2, recipe.latent),
                     *linear_on(known, scores, recipe.sigma2, recipe.latent))


def critical_beta(recipe: Recipe, known: Spectrum) -> float:
    """The β from which on a linear VAE spends nothing: its variance is the largest eigenvalue."""
    return 2 * recipe.sse_weight * known.eigenvalues[0].item()


@once
def linear_curve(lab: Lab) -> RateDistortion:
    """KL and squared error of linear VAEs on test faces, by rising β."""
    recipe = RECIPES["celeba128"]
    return curve_on(*axes(lab), [recipe.but(beta=beta).sigma2 for beta in LINEAR_BETAS],
                    recipe.latent)


def prediction(lab: Lab) -> Table:
    """What the faces' spectrum predicts for each β; in the last row it predicts collapse."""
    recipe, rows = RECIPES["celeba128"], []
    collapse = critical_beta(recipe, axes(lab)[0])
    for beta in (*BETAS, collapse):
        made = predicted(lab, beta)
        rows.append({"β": beta, "σ² = β/8": recipe.but(beta=float(beta)).sigma2, "KL": made.rate,
                     "squared error": made.error, "degrees of freedom": made.best.dof,
                     "active dimensions": made.best.active})
        if beta in BETAS:
            lab.found.keep(f"betas.predicted_test_rate_{beta}", made.rate, "nats", note="linear")
    lab.found.keep("betas.predicted_collapse", collapse, note="linear, closed form")
    return Table(rows, {"β": ",.0f", "σ² = β/8": ",.3f", "KL": ".0f", "squared error": ",.0f",
                        "degrees of freedom": ".0f"})


# ---- what came of it


class Outcome(NamedTuple):
    """What a training does to test faces."""

    rate: float         # KL
    error: float        # squared error on [0, 1]
    dof: float
    active: int         # dimensions that carry more than 0.01 nats
    moved: float        # grey levels that its strongest dimension moves some pixel
    sharpness: float    # of reconstructions at half their size, where the decoder's grid is gone


@once
def outcome(lab: Lab, key: str) -> Outcome:
    run, nats = runs(lab)[key], nats_by_dimension(lab, key)
    mu, logvar = lab.codes(run)
    return Outcome(run.chosen["test_kl"],
                   run.chosen["test_reconstruction"] / run.recipe.sse_weight,
                   latent.degrees_of_freedom(logvar), len(latent.live(nats)),
                   latent.largest_move(run.model, mu, int(nats.argmax())),
                   sharpness(F.avg_pool2d(decode_set(run.model, mu[:200]), 2)).mean().item()
                   + 1e-12)         # an untrained model may decode one grey


@trained
def outcomes(lab: Lab) -> Table:
    """Each training beside the linear model of its β, on test faces."""
    keep_outcomes(lab)
    rows, first = [], outcome(lab, "1")
    for key, run in runs(lab).items():
        here, linear = outcome(lab, key), predicted(lab, run.recipe.beta)
        rows.append({"model": name_of(lab, key), "KL": here.rate, "KL, linear": linear.rate,
                     "squared error": here.error, "squared error, linear": linear.error,
                     "degrees of freedom": here.dof, "active dimensions": here.active,
                     "sharpness at half size, of the first row's":
                         here.sharpness / first.sharpness})
    return Table(rows, dict.fromkeys(
        ("KL", "KL, linear", "squared error", "squared error, linear", "degrees of freedom"), ".0f")
        | {"sharpness at half size, of the first row's": ".0%"})


def keep_outcomes(lab: Lab) -> None:
    """The numbers of these trainings that prose, claims and README name."""
    def keep(name: str, value: float, unit: str, note: str = "test faces", run: Run | None = None):
        lab.found.keep(f"betas.{name}", value, unit, run, note)

    made, gaps = {key: outcome(lab, key) for key in runs(lab)}, []
    for key in EQUAL:
        run = runs(lab)[key]
        gaps.append(made[key].rate / max(predicted(lab, run.recipe.beta).rate, 1e-12) - 1)
        keep(f"rate_{key}", made[key].rate, "nats", run=run)
        keep(f"rate_gap_{key}", gaps[-1], "of linear", run=run)
    for key, run in runs(lab).items():
        if key in ("1", "10", "1_seed1"):
            keep(f"sse_{key}", made[key].error, "on [0, 1]", run=run)
        if key != "1":
            keep(f"halved_sharper_{key}", made[key].sharpness / made["1"].sharpness,
                 "of β = 1's", "reconstructions at half size", run)
    keep("dof_1", made["1"].dof, "directions")
    keep("dof_10", made["10"].dof, "directions")
    keep("rate_gap", max(map(abs, gaps)), "of linear", "the largest, at equal epochs")
    keep("least_active", min(made[key].active for key in EQUAL), "directions")
    keep("least_rate", min(here.rate for here in made.values()), "nats")
    keep("least_moved", min(here.moved for here in made.values()), "grey levels")
    keep("sse_added", made["10"].error - made["1"].error, "on [0, 1]", "β = 10 over 1, 5 epochs")
    keep("predicted_sse_added", predicted(lab, 10).error - predicted(lab, 1).error, "on [0, 1]",
         "linear, β = 10 over 1")
    whole = made["10"].error - made["1_long"].error
    if whole:
        keep("share_of_epochs", (made["1"].error - made["1_long"].error) / whole,
             "of the difference", "β = 10 after 5 epochs against β = 1 after 10")
    ratio = latent.against_linear({"10": made["10"][:2]}, linear_curve(lab))["10"]
    if ratio is not None:
        keep("over_linear_10", ratio - 1, "of linear", "squared error at its own KL")


@trained
def curves(lab: Lab) -> Figure:
    """The way of each training through the plane of KL and squared error, epoch by epoch."""
    ways = {}
    for key, style in STYLES.items():
        run = runs(lab)[key]
        errors = [value / run.recipe.sse_weight for value in run.curve("test_reconstruction")]
        ways[name_of(lab, key)] = (run.curve("test_kl"), errors, style_of(style),
                                   predicted(lab, run.recipe.beta)[1:])
    return lab.figure(plot_plane(ways, linear_curve(lab)), "beta-curves",
                      "The way of β = 1, 4 and 10 through the plane of KL and squared error, epoch "
                      "by epoch, towards the line of the best linear VAEs: down is training, left "
                      "is a higher β")


def plot_plane(ways: dict[str, tuple], linear: RateDistortion):
    """Ways (KL, squared error, style), each named at its end, over the linear curve, with a cross
    for what was predicted of each."""
    figure, panel = new_figure(width=8, height=4.6)
    panel.plot(*linear, color=GREY, ls=":", label="best linear VAEs, on test faces")
    panel.plot([], [], "x", color=GREY, ms=8, label="predicted for the β of that colour")
    for label, (rate, error, style, goal) in ways.items():
        panel.plot(rate, error, **style)
        panel.plot(*goal, "x", color=style["color"], ms=9, mew=2)
        panel.annotate(label, (rate[-1], error[-1]), (6, -4), textcoords="offset points",
                       fontsize=9, color=style["color"], va="top")
    every = [error for _, errors, *_ in ways.values() for error in errors]
    panel.set(title="Test faces, epoch by epoch", yscale="log", xlabel="KL, nats per face",
              ylabel="squared error on [0, 1], per face",
              xlim=(0, 1.25 * max(max(rate) for rate, *_ in ways.values())),
              ylim=(0.75 * min(every), 1.1 * max(every)))
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.yaxis.set_minor_locator(NullLocator())
    panel.legend(fontsize=8)
    return figure


@trained
def keep_settling(lab: Lab) -> None:
    """How far the KL and the loss of β = 1 still move in its later epochs, for the claims."""
    run = runs(lab)["1_long"]
    kl, loss = run.curve("test_kl"), run.curve("test_loss")
    lab.found.keep("betas.kl_drift", abs(kl[-1] - kl[(len(kl) - 1) // 2]) / max(kl[-1], 1e-12),
                   run=run, note="from half of the epochs to all")
    lab.found.keep("betas.last_gain", (loss[max(len(loss) - 2, 0)] - loss[-1]) / loss[-1], run=run,
                   note="of the test loss in the last epoch")


# ---- pictures


@trained
def reconstructions(lab: Lab) -> Figure:
    """The same eight test faces and what each model makes of them."""
    rows = {"test faces": lab.splits("celeba128").test.images[:8]} | {
        name_of(lab, key): decode_set(runs(lab)[key].model, codes(lab, key)[:8])
        for key in (*EQUAL, "1_long")}
    return lab.figure(labelled_rows(rows, "The same test faces through four models", zoom=1,
                                    label=LABEL),
                      "beta-reconstructions", "Eight test faces, and below them their "
                      "reconstructions with β = 1, 4 and 10 after equal epochs, then with β = 1 "
                      "after all of its epochs", picture=True)


@trained
def interpolations(lab: Lab) -> Figure:
    """Two pairs of test faces, beside each other, and six decoded steps between; a row for each β,
    at half size."""
    images, among = lab.splits("celeba128").test.images, codes(lab, "1")[:500]
    pairs = (0, 1), divmod(int(torch.cdist(among, among).argmax()), len(among))
    rows = {}
    for key in EQUAL:
        mu, model = codes(lab, key), runs(lab)[key].model
        row = [part for a, b in pairs for part in (
            as_pixels(images[[a]]), decode_set(model, lerp(mu[a], mu[b], 6)),
            as_pixels(images[[b]]))]
        rows[name_of(lab, key)] = F.avg_pool2d(torch.cat(row), 2)
    return lab.figure(labelled_rows(rows, "Between two faces: originals at the ends, six decoded "
                                    "steps", ("the first two test faces", "the two whose codes are "
                                              "farthest apart"), zoom=1, label=LABEL, blocks=2),
                      "beta-interpolations", "Two pairs of test faces with six decoded steps "
                      "between the originals, for β = 1, 4 and 10: the three rows look alike",
                      picture=True)


@trained
def keep_paths(lab: Lab) -> None:
    """How straight ways between two faces are, and how soon their steps shrink."""
    images, keep = lab.splits("celeba128").test.images, lab.found.keep
    for key in [key for key in ("1", "10", "1_seed1") if key in runs(lab)]:
        run, pairs = runs(lab)[key], min(PAIRS, len(images) // 2)
        detour, error = detour_of(paths_between(run.model, images, pairs)[1])
        keep(f"betas.detour_{key}", detour, run=run, note=f"{pairs} pairs of test faces")
        if key in EQUAL:
            keep(f"betas.detour_error_{key}", error, run=run, note="standard error over pairs")
    long, pairs = runs(lab)["1_long"], min(DOUBLED, len(images) // 2)
    few, many = (paths_between(long.model, images, pairs, lerp, steps)[1]
                 for steps in (STEPS, 2 * STEPS - 1))
    keep("betas.doubling_1_long", doubling_exponent(few, many), "exponent", long)


# ---- dimension by dimension


@trained
def dimensions(lab: Lab) -> Figure:
    """The dimensions of β = 1 that the earlier study shows, each moved through seven values."""
    model, mu = runs(lab)["1_long"].model, codes(lab, "1_long")[:1]
    nats = nats_by_dimension(lab, "1_long")
    rows = {f"dimension {dim},\n{nats[dim]:.2f} nats": latent.traverse(model, mu, dim, REACH)
            for dim in DIMS}
    return lab.figure(labelled_rows(rows, "β = 1: one test face, moved along three dimensions",
                                    values(REACH), zoom=1, label=LABEL),
                      "beta-dimensions", "A test face whose dimensions 8, 25 and 68 go from −3 to "
                      "3, a row each: little changes but light", picture=True)


def values(reach: float, n: int = 7) -> list[str]:
    """What stands over the columns of a traversal."""
    return [number(value, "g") for value in torch.linspace(-reach, reach, n).tolist()]


@trained
def over_betas(lab: Lab) -> Figure:
    """Two sets of rows over β, at half size: of one index, and of dimensions that are matched."""
    rows, at = {}, DIMS[0]
    chains = {"same index": {key: (at, 1, 1.0) for key in EQUAL}, "matched": chain(lab)}
    for kind, partners in chains.items():
        for key, (dim, sign, rho) in partners.items():
            frames = latent.traverse(runs(lab)[key].model, codes(lab, key)[:1], dim, sign * REACH)
            note = f", |ρ| = {rho:.2f}" if kind == "matched" and key != "1" else ""
            rows[f"β = {key}, dimension {dim}\n{kind}{note}"] = F.avg_pool2d(frames, 2)
    return lab.figure(labelled_rows(rows, "Over β: dimension 8 of each model, and one that is "
                                    "matched", values(REACH), zoom=1, label=LABEL),
                      "beta-dimensions-over", "Dimension 8 of β = 1, 4 and 10 does three different "
                      "things; below it, dimensions that are matched by their codes change light "
                      "alike in all three", picture=True)


def chain(lab: Lab) -> dict[str, tuple[int, int, float]]:
    """For each β the dimension that goes best with one of β = 1, whether it falls (-1) as that
    rises, and the size of their rank correlation."""
    partners = {}
    for key in EQUAL[1:]:
        found = latent.match_live(codes(lab, "1"), codes(lab, key), used(lab, "1"), used(lab, key))
        partners[key] = {i: (j, sign, rho) for (i, j), rho, sign in zip(
            *(part.tolist() for part in found), strict=True)}
    shared = partners["4"].keys() & partners["10"].keys()
    best = max(sorted(shared), key=lambda i: min(partners[key][i][2] for key in EQUAL[1:]))
    return {"1": (best, 1, 1.0)} | {key: partners[key][best] for key in EQUAL[1:]}


@trained
def matching(lab: Lab) -> Table:
    """Whether dimensions of two models correspond, beside what turning one model's axes gives."""
    keep, found = lab.found.keep, {}
    pairs = {"1_10": ("1", "10"), "1_4": ("1", "4"), "longer": ("1", "1_long"),
             "seed1_4": ("1_seed1", "4"), "seeds": ("1", "1_seed1")}
    pairs = {name: pair for name, pair in pairs.items() if set(pair) <= runs(lab).keys()}
    for name, (one, other) in pairs.items():
        here = found[name] = latent.correspondence(
            codes(lab, one), codes(lab, other), used(lab, one), used(lab, other),
            lab.settings.seed)
        keep(f"match.rho_{name}", here.rho, note="used dimensions, test faces")
    for name in [name for name in ("1_10", "seeds") if name in found]:
        keep(f"match.turned_{name}", found[name].turned, note="the second's axes turned at random")
    keep("match.same_1_10", found["1_10"].same, note="dimensions of equal index")
    keep("match.read_1_10", found["1_10"].read, note="R² of β = 10's codes from β = 1's")
    keep("match.read_back_1_10", found["1_10"].read_back, note="R² of β = 1's from β = 10's")
    rows = [{"models": " / ".join(name_of(lab, key) for key in pairs[name]),
             "|ρ|, matched": here.rho, "on turned axes": here.turned, "of equal index": here.same,
             "R² of the second from the first": here.read,
             "of the first from the second": here.read_back} for name, here in found.items()]
    return Table(rows, dict.fromkeys(list(rows[0])[1:], ".2f"))


@trained
def single_factors(lab: Lab) -> Table:
    """Whether dimensions tell one attribute each, and more so than turned axes do."""
    rows, labels, seed = [], lab.splits("celeba128").test.labels, lab.settings.seed
    errors = {}
    for key in [key for key in (*EQUAL, "1_seed1") if key in runs(lab)]:
        mu = codes(lab, key)[:, used(lab, key)]
        share, (turned, errors[key]) = (latent.one_factor(mu, labels),
                                        latent.one_factor_turned(mu, labels, seed))
        excess = None if share is None else share - turned
        if key != "4":
            lab.found.keep(f"betas.one_factor_excess_{key}", excess, note="over turned axes")
        rows.append({"model": name_of(lab, key), "largest attribute's share": share,
                     "on turned axes": turned, "excess": excess})
    lab.found.keep("betas.one_factor_error", math.hypot(errors["1"], errors["10"]),
                   note="of the difference of β = 1 and 10, over turns")
    return Table(rows, dict.fromkeys(list(rows[0])[1:], ".1%"))


@trained
def keep_stretch(lab: Lab) -> None:
    """What pixels in [−1, 1] do to the squared error: 2², by algebra."""
    run, images = runs(lab)["1"], lab.splits("celeba128").test.images[:100]
    lab.found.keep("betas.stretch", latent.stretch(run.model, images), run=run,
                   note="the same decodings on [−1, 1] and on [0, 1]")
