"""β at 128×128: what the weight of the KL does to a VAE of faces, predicted before any training."""

import math

import torch
import torch.nn.functional as F
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from lab import latent
from lab.chapters import interpolation
from lab.chapters.scale import principal_axes, scores_on_axes
from lab.linear import RateDistortion, critical_betas, curve_on, linear_on
from lab.notebook import Lab, needs, once
from lab.recipes import RECIPES, Training
from lab.runs import Run
from lab.samples import sharpness
from lab.show import Figure, Table, labelled_rows
from lab.training import decode_set, lerp
from vae_helpers import GREY, as_pixels, kl_divergence, new_figure, style_of

LARGE = RECIPES["celeba128"]
# The trainings, as findings call them. The earlier study compares "1_long" with "4" and "10".
NEEDED = {"1": Training("celeba128", epochs=5), "4": Training("celeba128-b4"),
          "10": Training("celeba128-b10"), "1_long": Training("celeba128")}
AGAIN = Training("celeba128", 1, epochs=5)
EQUAL = ("1", "4", "10")            # of equal epochs, named by β
FARTHEST = ("1", "10", "1_seed1")   # the two β that claims compare, and another seed of one
STYLES = {"1_long": "celeba128", "4": "b4", "10": "b10"}
DIMS = (8, 25, 68)                  # those that the earlier study shows
LINEAR_BETAS = [10 ** (k / 5) for k in range(-5, 13)]   # of the linear curve, 0.1 to 250
LABEL, PAIRS, DOUBLED = 150, 32, 8  # pixels for a row's name; pairs of faces with ways between
REACH, STEPS = 3.0, 5               # of a traversal
HALVED = "sharpness at half size, of the first row's"   # where the decoder's grid is gone
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


def predicted(lab: Lab, beta: float) -> tuple[float, float]:
    """KL and squared error, on test faces, of the linear VAE that is best for training faces."""
    which = lab, LARGE.name, LARGE.latent
    return linear_on(principal_axes(*which), scores_on_axes(*which),
                     LARGE.but(beta=float(beta)).sigma2, LARGE.latent)


def linear_curve(lab: Lab) -> RateDistortion:
    """KL and squared error of linear VAEs on test faces, by rising β."""
    which = lab, LARGE.name, LARGE.latent
    sigma2s = [LARGE.but(beta=beta).sigma2 for beta in LINEAR_BETAS]
    return curve_on(principal_axes(*which), scores_on_axes(*which), sigma2s, LARGE.latent)


# ---- what came of it


@trained
def outcomes(lab: Lab) -> Table:
    """Each training beside the linear model of its β, on test faces."""
    rows = {key: outcome_row(lab, key) for key in runs(lab)}
    first = rows["1"][HALVED]
    for row in rows.values():
        row[HALVED] /= first
    keep_outcomes(lab, rows)
    return Table(list(rows.values()), dict.fromkeys(
        ("KL", "KL, linear", "squared error", "squared error, linear", "degrees of freedom"), ".0f")
        | {HALVED: ".0%"})


def outcome_row(lab: Lab, key: str) -> dict:
    """What one training does to test faces; its dimensions count from 0.01 nats on."""
    run, nats = runs(lab)[key], nats_by_dimension(lab, key)
    rate, error = predicted(lab, run.recipe.beta)
    halved = F.avg_pool2d(decode_set(run.model, codes(lab, key)[:200]), 2)
    return {"model": name_of(lab, key), "KL": run.chosen["test_kl"], "KL, linear": rate,
            "squared error": run.chosen["test_reconstruction"] / run.recipe.sse_weight,
            "squared error, linear": error,
            "degrees of freedom": latent.degrees_of_freedom(lab.codes(run)[1]),
            "active dimensions": len(latent.live(nats)),
            HALVED: sharpness(halved).mean().item() + 1e-12}    # one grey has none


def keep_outcomes(lab: Lab, rows: dict[str, dict]) -> None:
    """The numbers of these trainings that prose, claims and README name."""
    def keep(name: str, value: float, unit: str, key: str = "") -> None:
        lab.found.keep(f"betas.{name}", value, unit, runs(lab).get(key))

    known = principal_axes(lab, LARGE.name, LARGE.latent)
    keep("predicted_collapse", critical_betas(known, LARGE)[0], "")
    error = {key: row["squared error"] for key, row in rows.items()}
    gaps = {key: rows[key]["KL"] / max(rows[key]["KL, linear"], 1e-12) - 1 for key in EQUAL}
    for key in ("1", "10"):
        keep(f"rate_{key}", rows[key]["KL"], "nats", key)
        keep(f"rate_gap_{key}", gaps[key], "of linear", key)
        keep(f"dof_{key}", rows[key]["degrees of freedom"], "directions")
    for key, row in rows.items():
        if key in FARTHEST:
            keep(f"sse_{key}", error[key], "on [0, 1]", key)
        if key != "1":
            keep(f"halved_sharper_{key}", row[HALVED], "of β = 1's", key)
    keep("rate_gap", max(map(abs, gaps.values())), "of linear")
    keep("least_active", min(rows[key]["active dimensions"] for key in EQUAL), "directions")
    keep("least_rate", min(row["KL"] for row in rows.values()), "nats")
    keep("least_moved", min(latent.largest_move(run.model, codes(lab, key),
                                                int(nats_by_dimension(lab, key).argmax()))
                            for key, run in runs(lab).items()), "grey levels")
    keep("sse_added", error["10"] - error["1"], "on [0, 1]")
    keep("predicted_sse_added", predicted(lab, 10)[1] - predicted(lab, 1)[1], "on [0, 1]")
    if whole := error["10"] - error["1_long"]:
        keep("share_of_epochs", (error["1"] - error["1_long"]) / whole, "of the difference")
    ratio = latent.against_linear(rows["10"]["KL"], error["10"], linear_curve(lab))
    if ratio is not None:
        keep("over_linear_10", ratio - 1, "of linear")


@trained
def curves(lab: Lab) -> Figure:
    """The way of each training through the plane of KL and squared error, epoch by epoch."""
    ways = {}
    for key, style in STYLES.items():
        run = runs(lab)[key]
        errors = [value / run.recipe.sse_weight for value in run.curve("test_reconstruction")]
        ways[name_of(lab, key)] = (run.curve("test_kl"), errors, style_of(style),
                                   predicted(lab, run.recipe.beta))
    return lab.figure(plot_plane(ways, linear_curve(lab)), "beta-curves",
                      "The way of β = 1, 4 and 10 through the plane of KL and squared error, epoch "
                      "by epoch, towards the line of the best linear VAEs: down is training, left "
                      "is a higher β")


def plot_plane(ways: dict[str, tuple], curve: RateDistortion):
    """Ways (KL, squared error, style), each named at its end, over the linear curve, with a cross
    for what was predicted of each."""
    figure, panel = new_figure(width=8, height=4.6)
    panel.plot(*curve, color=GREY, ls=":", label="best linear VAEs, on test faces")
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
    """How far the KL of β = 1 still moves in the later half of its epochs, and how much of its loss
    the last one takes off, for the claims."""
    run = runs(lab)["1_long"]
    kl, loss = run.curve("test_kl"), run.curve("test_loss")
    drift = abs(kl[-1] - kl[(len(kl) - 1) // 2])
    lab.found.keep("betas.kl_drift", drift / max(kl[-1], 1e-12), run=run)
    lab.found.keep("betas.last_gain", (loss[-2:][0] - loss[-1]) / loss[-1], run=run)


# ---- pictures


@trained
def reconstructions(lab: Lab) -> Figure:
    """The same eight test faces and what each model makes of them, at half size."""
    rows = {"test faces": as_pixels(lab.splits("celeba128").test.images[:8])} | {
        name_of(lab, key): decode_set(runs(lab)[key].model, codes(lab, key)[:8])
        for key in (*EQUAL, "1_long")}
    rows = {name: F.avg_pool2d(images, 2) for name, images in rows.items()}
    return lab.figure(labelled_rows(rows, "The same test faces through four models, at half size",
                                    zoom=1, label=LABEL),
                      "beta-reconstructions", "Eight test faces, and below them their "
                      "reconstructions with β = 1, 4 and 10 after equal epochs, then with β = 1 "
                      "after all of its epochs", picture=True)


@trained
def interpolations(lab: Lab) -> Figure:
    """Two pairs of test faces and six decoded steps between, at half size, a row for each β."""
    images, rows = lab.splits("celeba128").test.images, {}
    pairs = (0, 1), interpolation.farthest(codes(lab, "1")[:500])
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
    images, keep, long = lab.splits("celeba128").test.images, lab.found.keep, runs(lab)["1_long"]
    for key, run in runs(lab).items():
        if key in FARTHEST:
            _, frames = interpolation.paths_between(run.model, images, PAIRS)
            detour, error = interpolation.detour_of(frames)
            keep(f"betas.detour_{key}", detour, run=run)
            if key in EQUAL:
                keep(f"betas.detour_error_{key}", error, run=run)
    _, halved = interpolation.paths_between(long.model, images, DOUBLED,
                                            steps=interpolation.HALF_STEPS)
    keep("betas.doubling_1_long", interpolation.doubling_exponent(halved), "exponent", long)


# ---- dimension by dimension


@trained
def dimensions(lab: Lab) -> Figure:
    """One test face moved along single dimensions, at half size and in three rows each: those of
    β = 1 that the earlier study shows, one number over β, and dimensions that are matched."""
    matched = chain(lab)
    blocks = {f"dimensions {', '.join(map(str, DIMS))} of β = 1": [("1_long", dim, 1)
                                                                  for dim in DIMS],
              f"dimension {DIMS[0]} of β = 1, 4, 10": [(key, DIMS[0], 1) for key in EQUAL],
              f"dimensions {', '.join(str(dim) for dim, _ in matched.values())} of β = 1, 4, 10":
                  [(key, *found) for key, found in matched.items()]}
    rows = {name: torch.cat([F.avg_pool2d(moved(lab, *block[i]), 2) for block in blocks.values()])
            for i, name in enumerate(("upper", "middle", "lower"))}
    return lab.figure(labelled_rows(rows, "One test face, one dimension from −3 to 3 in each row",
                                    list(blocks), zoom=1, label=50, blocks=len(blocks)),
                      "beta-dimensions", "Left, dimensions 8, 25 and 68 of β = 1 change little but "
                      "light; in the middle, dimension 8 does three different things for β = 1, 4 "
                      "and 10; right, dimensions that are matched by their codes all change light, "
                      "that of β = 1 a little", picture=True)


def moved(lab: Lab, key: str, dim: int, sign: int) -> Tensor:
    """A test face with one dimension of its code at five values, rising or (sign -1) falling."""
    return latent.traverse(runs(lab)[key].model, codes(lab, key)[:1], dim, sign * REACH, STEPS)


def chain(lab: Lab) -> dict[str, tuple[int, int]]:
    """For each β the dimension that goes best with one of β = 1, and whether it falls (-1) as that
    rises."""
    partners = {}
    for key in EQUAL[1:]:
        found = latent.match_live(codes(lab, "1"), codes(lab, key), used(lab, "1"), used(lab, key))
        partners[key] = {i: (j, sign, rho) for (i, j), rho, sign in zip(
            *(part.tolist() for part in found), strict=True)}
    shared = partners["4"].keys() & partners["10"].keys()
    best = max(sorted(shared), key=lambda i: min(partners[key][i][2] for key in EQUAL[1:]))
    return {"1": (best, 1)} | {key: partners[key][best][:2] for key in EQUAL[1:]}


@trained
def matching(lab: Lab) -> Table:
    """Whether dimensions of two models correspond, beside what turning one model's axes gives."""
    keep, seed, found, rows = lab.found.keep, lab.settings.seed, {}, []
    for name, (one, other) in {"1_10": ("1", "10"), "1_4": ("1", "4"), "longer": ("1", "1_long"),
                               "seed1_4": ("1_seed1", "4"), "seeds": ("1", "1_seed1")}.items():
        if {one, other} <= runs(lab).keys():
            found[name] = here = latent.correspondence(
                codes(lab, one), codes(lab, other), used(lab, one), used(lab, other), seed)
            if name in ("1_10", "longer", "seeds"):
                keep(f"match.rho_{name}", here.rho)
            rows.append({"models": f"{name_of(lab, one)} / {name_of(lab, other)}",
                         "|ρ|, matched": here.rho, "on turned axes": here.turned,
                         "of equal index": here.same, "R² of the second from the first": here.read})
    keep("match.turned_1_10", found["1_10"].turned)
    keep("match.same_1_10", found["1_10"].same)
    keep("match.read_1_10", found["1_10"].read)
    return Table(rows, dict.fromkeys(list(rows[0])[1:], ".2f"),
                 fold=f"All {len(rows)} pairs of models")


@trained
def keep_single_factors(lab: Lab) -> None:
    """By how much more dimensions tell one attribute each than turned axes do."""
    labels, seed, errors = lab.splits("celeba128").test.labels, lab.settings.seed, {}
    for key, run in runs(lab).items():
        if key in FARTHEST:
            mu = codes(lab, key)[:, used(lab, key)]
            share, (turned, errors[key]) = (latent.one_factor(mu, labels),
                                            latent.one_factor_turned(mu, labels, seed))
            if share is not None:
                lab.found.keep(f"betas.one_factor_excess_{key}", share - turned, run=run)
    lab.found.keep("betas.one_factor_error", math.hypot(errors["1"], errors["10"]))
