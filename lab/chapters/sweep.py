"""The comparison of settings: three settings of two networks, squared error, early stopping."""

import math
from statistics import fmean

import torch
from matplotlib.ticker import NullLocator, ScalarFormatter
from torch import Tensor

from lab.chapters.cifar import key_of
from lab.chapters.interpolation import HALF_STEPS, STEPS, decode_paths, doubling_exponent
from lab.chapters.scale import principal_axes, scores_on_axes
from lab.linear import Estimate, linear_on
from lab.notebook import Lab, needs, once
from lab.recipes import RECIPES
from lab.runs import Run
from lab.show import Figure, Table, finite, labelled_rows
from lab.training import draw_images, draw_prior, evaluate, lerp, summary
from vae_helpers import GREY, VAE, build, new_figure, style_of

SETTINGS, NETWORKS, FACES = ("p1", "p2", "p3"), ("conv", "fc"), "celeba32"
NAMES = tuple(f"{setting}-{network}" for setting in SETTINGS for network in NETWORKS)
UNSTOPPED = {"p1-fc": "p1-fc-on", "p2-conv": "p2-conv-on"}      # the same with the rule off
TRAININGS = (*NAMES, FACES, *UNSTOPPED.values())
CLAIMED = {"p1-conv": (18, 74.7), "p1-fc": (40, 80.7), "p2-conv": (21, 74.9), "p2-fc": (33, 78.2),
           "p3-conv": (15, 75.4), "p3-fc": (23, 82.6), FACES: (22, None)}     # epochs, loss
AFTER = 5               # epochs; the loss falls too fast before to tell steady from unsteady
TOLERANCE = 5e-3        # of the held-out loss: four standard errors where noise is another device's
SAMPLES = 2_000         # of each training, that are judged
SHOWN = 16              # of them
PAIRS = 100             # of random latent vectors
RANKED_BY = "epochs", "held-out loss", "test loss", "unsteadiness", "KID"


# ---- losses


def linear_losses(lab: Lab, name: str) -> tuple[float, float]:
    """Held-out and test loss of the linear VAE that is best for the training images, with a
    recipe's latent size and weights of both terms."""
    recipe, images = RECIPES[name], FACES if name == FACES else NAMES[0]
    known = principal_axes(lab, images, 256)
    pairs = [linear_on(known, scores_on_axes(lab, images, 256, part), recipe.sigma2, recipe.latent)
             for part in ("heldout", "test")]
    return tuple(recipe.sse_weight * error + recipe.beta * rate for rate, error in pairs)


@needs(*TRAININGS)
def losses(lab: Lab) -> Table:
    """Losses of the first seed at the epoch that is kept, those claimed, and the linear model's;
    the rise is from the least test loss of all epochs to that of the last."""
    rows = {}
    for name in TRAININGS:
        run, (epochs, claimed) = lab.run(name), CLAIMED.get(name, (None, None))
        best, curve = run.chosen, run.curve("test_loss")
        rows[name] = {"training": name, "epochs": len(curve), "claimed epochs": epochs,
                      "held-out loss": best["heldout_loss"], "claimed loss": claimed,
                      "test loss": best["test_loss"],
                      "test less linear": best["test_loss"] - linear_losses(lab, name)[1],
                      "rise": curve[-1] - min(curve)}
    keep_losses(lab, rows)
    for name, data in (("p1-conv", "CIFAR-10"), (FACES, "CelebA")):
        heldout, test = linear_losses(lab, name)
        rows[data] = dict.fromkeys(rows[name]) | {"training": f"*best linear VAE, {data}*",
                                                  "held-out loss": heldout, "test loss": test}
    return Table(list(rows.values()), {
        "held-out loss": ".2f", "claimed loss": ".1f", "test loss": ".2f",
        "test less linear": "+.2f", "rise": ".2f"})


def keep_losses(lab: Lab, rows: dict[str, dict]) -> None:
    """Keeps the losses that claims and prose read."""
    keep, test = lab.found.keep, {name: row["test loss"] for name, row in rows.items()}
    for name in NAMES:
        keep(f"sweep.{key_of(name)}.loss", rows[name]["held-out loss"], "nats", lab.run(name))
    for name in ("p2-conv", "p2-fc"):
        keep(f"sweep.{key_of(name)}.above_pca", rows[name]["test less linear"], "nats",
             lab.run(name))
    for name in UNSTOPPED.values():
        keep(f"sweep.{key_of(name)}.rise", rows[name]["rise"], "nats", lab.run(name))
    keep("sweep.celeba32.epochs", rows[FACES]["epochs"], "epochs", lab.run(FACES))
    keep("sweep.margin.stopped", test["p1-fc"] - test["p1-fc-on"], "nats")
    keep("sweep.pca.test", linear_losses(lab, "p1-conv")[1], "nats")


# ---- curves


@needs(*TRAININGS)
def curves(lab: Lab) -> Figure:
    """Held-out loss by epoch, a panel a setting, with the linear model's, and claims as crosses."""
    figure, grid = new_figure(2, 2, width=9, height=5)
    for axes, setting in zip(grid.flat, (*SETTINGS, FACES), strict=True):
        draw_setting(lab, axes, setting)
    figure.supxlabel("epoch, on a logarithmic axis; the first losses lie above the panels; "
                     "● ■ the epoch that is kept, × claimed, dotted: not stopped", fontsize=9)
    return lab.figure(
        figure, "sweep-curves", "Held-out loss by epoch in three settings, of a convolutional and "
        "a fully connected network, and of faces, with the epoch that is kept, the best linear "
        "model's loss and the claimed end of each")


def draw_setting(lab: Lab, axes, setting: str) -> None:
    """A setting's trainings: the first seed thick, further ones thin, unstopped ones dotted."""
    names = [name for name in CLAIMED if name.startswith(setting)]
    recipe, (level, _) = RECIPES[names[0]], linear_losses(lab, names[0])
    for name in names:
        network, (epoch, claimed) = RECIPES[name].network, CLAIMED[name]
        first, *others = lab.seeds(name)
        draw_curve(axes, first, network, 1.6)
        for run in others:
            draw_curve(axes, run, network, 0.8)
        colour, third = style_of(network)["color"], first.history[:3][-1]
        axes.annotate(network, (third["epoch"], third["heldout_loss"]), (8, 5), color=colour,
                      textcoords="offset points", annotation_clip=True)
        if name in UNSTOPPED:
            draw_curve(axes, lab.run(UNSTOPPED[name]), network, 1, ls=":")
        if claimed:
            axes.plot(epoch, claimed, "x", color=colour, ms=8, mew=2)
    axes.axhline(level, color=GREY, ls=":", lw=1)
    axes.text(0.95, level, "best linear model", color=GREY, fontsize=8, va="bottom")
    axes.set(xscale="log", xlim=(0.9, 45), ylim=(level - 5, level + 30), ylabel="held-out loss",
             title=f"{setting}: batch {recipe.batch}, rate {recipe.lr:g}, d = {recipe.latent}",
             xticks=[1, 2, 5, 10, 20, 40])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def draw_curve(axes, run: Run, network: str, width: float, **changed) -> None:
    """A training's line, and a mark at the epoch that is kept."""
    style = style_of(network) | {"lw": width} | changed
    marker, best = style.pop("marker"), run.chosen
    axes.plot(run.curve("epoch"), run.curve("heldout_loss"), **style)
    axes.plot(best["epoch"], best["heldout_loss"], marker, color=style["color"], ms=4 * width)


# ---- rankings


def unsteadiness(losses: list[float]) -> float | None:
    """The standard deviation of a loss's late steps from one epoch to the next: 0 if it falls
    evenly, however steeply; None for less than two steps."""
    steps = torch.tensor(losses[AFTER - 1:], dtype=torch.float64).diff()
    return steps.std().item() if len(steps) > 1 else None


@once
def measured(lab: Lab, run: Run) -> dict[str, float | None]:
    """What settings are ranked by, of one training; its samples are drawn with SEED."""
    images = draw_images(run.model, min(SAMPLES, len(lab.cifar.test)), lab.settings.seed)
    judged = lab.judge.measure(images)
    return {"epochs": len(run.history), "held-out loss": run.chosen["heldout_loss"],
            "test loss": run.chosen["test_loss"],
            "unsteadiness": unsteadiness(run.curve("heldout_loss")), "KID": judged["kid"],
            "± of KID": judged["kid_error"]}


def in_settings(lab: Lab, what: str, network: str) -> list[list[float]]:
    """In each setting a number of every seed that is there; not a number where it is missing."""
    groups = [[measured(lab, run)[what] for run in lab.seeds(f"{setting}-{network}")]
              for setting in SETTINGS]
    return [[math.nan if value is None else value for value in group] for group in groups]


def pooled_sd(groups: list[list[float]]) -> float:
    """The standard deviation within groups, pooled over them; not a number if none has two."""
    squares = sum((value - fmean(group)) ** 2 for group in groups for value in group)
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(squares / freedom) if freedom else math.nan


def estimates(lab: Lab, what: str, network: str) -> list[Estimate]:
    """In each setting the mean over seeds. Its error is that of seeds, and for KID that of drawing
    so many samples as well."""
    groups = in_settings(lab, what, network)
    own = in_settings(lab, "± of KID", network) if what == "KID" else [[0.0]] * len(groups)
    return [Estimate(fmean(group), math.hypot(pooled_sd(groups), fmean(drawn))
                     / math.sqrt(len(group))) for group, drawn in zip(groups, own, strict=True)]


def margins(conv: dict[str, list[Estimate]],
            fc: dict[str, list[Estimate]]) -> dict[str, tuple[str, Estimate]]:
    """What is claimed, and the margin by which it comes out, negative where something else does,
    from both networks' estimates in three settings."""
    def least(what: str) -> Estimate:
        return min(b.less(a) for a, b in zip(conv[what], fc[what], strict=True))

    def lead(each: list[Estimate], best: int) -> Estimate:
        return min(other.less(each[best]) for i, other in enumerate(each) if i != best)

    def stable(what: str) -> Estimate:
        wide, narrow = (max(each[what]).less(min(each[what])) for each in (fc, conv))
        return wide.less(narrow)

    (p1, p2, _), (p1_fc, p2_fc, _) = conv["unsteadiness"], fc["unsteadiness"]
    return {
        "test_loss": ("conv has the lower test loss: fc less conv, the least of three settings",
                      least("test loss")),
        "epochs": ("conv stops earlier: epochs of fc less conv, the least of three settings",
                   least("epochs")),
        "stable_test_loss": ("conv is stable: range of test losses over settings, fc less conv",
                             stable("test loss")),
        "stable_kid": ("… range of the KID of samples, fc less conv", stable("KID")),
        "coherent": ("p2 has fc's best samples: the next KID less its own", lead(fc["KID"], 1)),
        "improved": ("p3 improves fc most: the next test loss less its own",
                     lead(fc["test loss"], 2)),
        "unsteady_conv": ("1e-3 is unstable: unsteadiness of p1 less p2, conv", p1.less(p2)),
        "unsteady_fc": ("… the same, fc", p1_fc.less(p2_fc))}


@needs(*TRAININGS)
def rankings(lab: Lab) -> Table:
    """By how much each claimed ranking comes out again, with its standard error."""
    conv, fc = ({what: estimates(lab, what, network) for what in RANKED_BY}
                for network in NETWORKS)
    keep, rows = lab.found.keep, []
    for key, (claim, (margin, error)) in margins(conv, fc).items():
        keep(f"sweep.margin.{key}", margin)
        keep(f"sweep.error.{key}", error)
        rows.append({"ranking": claim, "margin": finite(margin), "±": finite(error)})
    for network in NETWORKS:
        keep(f"sweep.sd.loss_{network}", pooled_sd(in_settings(lab, "held-out loss", network)),
             "nats")
    return Table(rows, {"margin": "+.3g", "±": ".2g"})


@needs(*TRAININGS)
def every_training(lab: Lab) -> Table:
    """What the rankings are made of, of every training, and its standard deviation over seeds."""
    rows = []
    for network in NETWORKS:
        runs = [run for setting in SETTINGS for run in lab.seeds(f"{setting}-{network}")]
        rows += [{"training": f"{run.recipe.name}, seed {run.identity['seed']}"}
                 | measured(lab, run) for run in runs]
        sd = {what: finite(pooled_sd(in_settings(lab, what, network))) for what in RANKED_BY}
        rows.append({"training": f"*standard deviation over seeds, {network}*", **sd,
                     "± of KID": None})
    return Table(rows, {"epochs": ".3g", "held-out loss": ".2f", "test loss": ".2f",
                        "unsteadiness": ".2f", "KID": ".3f", "± of KID": ".3f"},
                 fold="Every training")


# ---- by name


def checked_loss(lab: Lab, run: Run) -> float:
    """The held-out loss of a run's weights, computed as in training. Weights that do not give the
    loss that is stored with them are refused."""
    heldout = lab.splits(run.recipe).heldout.images
    terms = evaluate(run.model, heldout, seed=run.identity["seed"])
    now, stored = summary(run.recipe, terms)["loss"], run.chosen["heldout_loss"]
    if not abs(now - stored) <= TOLERANCE * abs(stored):
        raise ValueError(f"the weights in {run.folder} give a held-out loss of {now:.2f}, but "
                         f"{stored:.2f} is stored with them: delete that folder and train "
                         f"{run.recipe.name} again")
    return now


def random_paths(model: VAE, pairs: int, seed: int, steps: int) -> Tensor:
    """Frames (pairs, steps, 3, H, W) on straight lines between draws from N(0, I)."""
    ends = draw_prior(2 * pairs, model.recipe.latent, seed).split(pairs)
    return decode_paths(model, lerp(*ends, steps))


@needs(*TRAININGS)
def by_name(lab: Lab) -> Figure:
    """Samples of every training, and ten steps between two draws through the one that SETTING
    names, whose weights are checked first."""
    chosen, seed = lab.run(lab.settings.setting), lab.settings.seed
    lab.found.keep("sweep.loaded.loss", checked_loss(lab, chosen), "nats", chosen)
    lab.found.keep("sweep.loaded.stored", chosen.chosen["heldout_loss"], "nats", chosen)
    rows = {name: draw_images(lab.run(name).model, SHOWN, seed) for name in CLAIMED}
    path = random_paths(chosen.model, 1, seed, STEPS)[0]
    rows[f"{chosen.recipe.name},\nbetween two draws"] = torch.cat(
        [path, torch.ones(SHOWN - STEPS, *path.shape[1:])])
    return lab.figure(
        labelled_rows(rows, "Samples of every training; below, ten steps between two draws",
                      zoom=2, label=140),
        "sweep-samples", "Sixteen samples of each setting and network and of faces, and ten "
        "decoded steps between two random latent vectors: patches of colour everywhere",
        picture=True)


@needs(*TRAININGS)
def keep_paths(lab: Lab) -> None:
    """How soon steps between two draws shrink when there are twice as many, trained and not."""
    run = lab.run(lab.settings.setting)
    untrained = build(run.recipe, lab.settings.seed).eval()
    for key, model in {"path": run.model, "path_untrained": untrained}.items():
        halved = random_paths(model, PAIRS, lab.settings.seed, HALF_STEPS)
        lab.found.keep(f"sweep.{key}.doubling", doubling_exponent(halved), "exponent")
