"""What linear probes read from the codes of faces and from their pixels, and what edits change."""

import torch
from scipy.optimize import brentq
from torch import Tensor

from lab.chapters.faces import SHOWN
from lab.chapters.scale import scale
from lab.latent import Probe, edit_steps, effect, fit_probes, mean_auc, read, varied
from lab.linear import Spectrum, linear_optimum, mean_and_error, over_seeds, pca_scores
from lab.notebook import Lab, needs, once
from lab.recipes import Training
from lab.runs import Run
from lab.show import Table
from lab.training import decode_set, draw_codes, encode_set, generator
from vae_helpers import kl_divergence

FEW = 3_000             # training faces that the models of 128×128 are compared on
EDITED = 200            # test faces that are edited
PASSES = 0.25           # an edit passes where nothing else moves by this share of what it edits
REAL = "real faces, with it less without"
AGAINST = {"the code μ": "PCA scores of the pixels", "both together": "PCA scores of the pixels",
           "draws of the code": "draws of a linear VAE"}       # what kinds are compared with
Parts = dict[str, Tensor]       # each test face's part (N,) in the AUC of every attribute


# ---- codes of training and test faces


def codes(lab: Lab) -> list[Tensor]:
    """mu of the face model."""
    return [lab.codes(lab.run("celeba64"), part)[0] for part in ("train", "test")]


@once
def kinds(lab: Lab) -> dict[str, list[Tensor]]:
    """Codes of training and of test faces: as many PCA scores of the pixels as the face model has
    dimensions, its mu, both, and draws from the posteriors of a linear VAE that spends as many
    nats, and from its own."""
    run, known = lab.run("celeba64"), scale(lab, "celeba64").spectrum
    scores = [pca_scores(known, each.images, run.recipe.latent)
              for each in (lab.faces.train, lab.faces.test)]
    spent = kl_divergence(*lab.codes(run)).double().sum(1).mean().item()
    sigma2 = sigma2_at(known, spent, run.recipe.latent)
    linear = [linear_posteriors(known, each, sigma2) for each in scores]
    own = [lab.codes(run, part) for part in ("train", "test")]
    return {"PCA scores of the pixels": scores, "the code μ": codes(lab),
            "both together": [torch.cat(pair, 1) for pair in zip(codes(lab), scores, strict=True)],
            "draws of a linear VAE": drawn(lab, "linear", linear),
            "draws of the code": drawn(lab, "draws", own)}


def drawn(lab: Lab, name: str, posteriors: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """A draw from every posterior of training and of test faces."""
    return [draw_codes(*each, generator("cpu", lab.settings.seed, "probes", f"{name}, {i}"))
            for i, each in enumerate(posteriors)]


def sigma2_at(known: Spectrum, rate: float, latent: int) -> float:
    """The decoder variance at which the best linear VAE of some size spends so many nats."""
    top = known.eigenvalues[0].item()
    return top * 1e-9 ** brentq(
        lambda t: linear_optimum(known, top * 1e-9 ** t, latent).rate - rate, 0.0, 1.0)


def linear_posteriors(known: Spectrum, scores: Tensor, sigma2: float) -> tuple[Tensor, Tensor]:
    """mu and logvar (N, k) of the best linear VAE's live dimensions, from PCA scores."""
    kept = known.eigenvalues[: scores.shape[1]]
    kept = kept[kept > sigma2]
    mu = scores[:, : len(kept)].double() * (kept - sigma2).sqrt() / kept
    return mu.float(), (sigma2 / kept).log().float().expand_as(mu)


# ---- what is read from them


def reading(lab: Lab, train: Tensor, test: Tensor) -> Parts:
    """What probes that are fitted on codes of the first training faces read of test faces."""
    names = lab.faces.train.label_names
    probes = fit_probes(train, lab.faces.train.labels[: len(train)], names)
    return read(probes, test, lab.faces.test.labels, names)


@once
def reading_of(lab: Lab, kind: str) -> Parts:
    """What is read from codes of one kind."""
    return reading(lab, *kinds(lab)[kind])


def summary(lab: Lab) -> Table:
    """The mean AUC over attributes that is read from each kind of code, and how much it is above
    another kind's, with its error over test faces. Both kinds of draws are of as many nats."""
    means, rows = {kind: mean_auc(reading_of(lab, kind)) for kind in kinds(lab)}, []
    for kind, parts in means.items():
        other = AGAINST.get(kind)
        difference, error = mean_and_error(parts - means[other]) if other else (None, None)
        rows.append({"read from": kind, "AUC, mean": parts.mean().item(),
                     "compared with": other or "", "difference": difference, "±": error})
    for key, row in zip(("pca_auc_mean", "auc_mean", "both_auc_mean"), rows, strict=False):
        lab.found.keep(f"probes.{key}", row["AUC, mean"])
    return Table(rows, {"AUC, mean": ".3f", "difference": "+.3f", "±": ".3f"})


def attributes(lab: Lab) -> Table:
    """Every attribute as it is read from the code and from as many PCA scores, with the error of
    the difference over test faces; by falling difference."""
    pca, rows = reading_of(lab, "PCA scores of the pixels"), []
    has = varied(lab.faces.test.labels, lab.faces.test.label_names)
    for name, parts in reading_of(lab, "the code μ").items():
        difference, error = mean_and_error(parts - pca[name])
        rows.append({"attribute": name, "have it": has[name].double().mean().item(),
                     "AUC, code": parts.mean().item(), "AUC, PCA": pca[name].mean().item(),
                     "difference": difference, "±": error})
    rows.sort(key=lambda row: row["difference"], reverse=True)
    better, worse = (sum(sign * row["difference"] > 2 * row["±"] for row in rows)
                     for sign in (1, -1))
    lab.found.keep("probes.better", better, "attributes")
    lab.found.keep("probes.worse", worse, "attributes")
    return Table(rows, {"have it": ".0%", "difference": "+.3f"}
                 | dict.fromkeys(("AUC, code", "AUC, PCA", "±"), ".3f"),
                 fold=f"All {len(rows)} attributes")


@needs(Training("celeba128", epochs=5), "celeba128-b4", "celeba128-b10")
def keep_by_beta(lab: Lab) -> None:
    """How much better probes read codes of higher β at 128×128: the difference of mean AUCs to the
    mean of β = 1, with an error that is that of the seeds of β = 1."""
    def auc(run: Run) -> float:
        few, _ = encode_set(run.model, lab.splits(run.recipe).train.images[:FEW])
        return mean_auc(reading(lab, few, lab.codes(run)[0])).mean().item()

    ones, keep = lab.seeds("celeba128", epochs=5), lab.found.keep
    mean, sd = over_seeds([auc(run) for run in ones])
    for beta in (4, 10):
        keep(f"probes.b{beta}_less_b1", auc(lab.run(f"celeba128-b{beta}")) - mean)
    keep("probes.b4_less_b1_error", sd * (1 + 1 / len(ones)) ** 0.5)


# ---- edits


@once
def judges(lab: Lab) -> dict[str, Probe]:
    """Probes of all attributes on every second training face, which judge."""
    train = lab.faces.train
    return fit_probes(codes(lab)[0][1::2], train.labels[1::2], train.label_names)


@once
def steps(lab: Lab) -> dict[str, dict[str, Tensor]]:
    """The steps that add one of four attributes, which a judge reads, to a code, by way; from the
    training faces that the judges have not seen."""
    mu, labels, names = codes(lab)[0][::2], lab.faces.train.labels[::2], lab.faces.train.label_names
    shown = [name for name in SHOWN if name in judges(lab)]
    probes = fit_probes(mu, labels[:, [names.index(name) for name in shown]], shown)
    return edit_steps(probes, mu, labels, names)


def judged(lab: Lab, mu: Tensor) -> Tensor:
    """Logits (N, attributes) of the judges, of codes (N, d)."""
    return torch.stack([probe.logit(mu) for probe in judges(lab).values()], 1)


def changes(lab: Lab) -> tuple[list[dict], list[dict]]:
    """What judges say changes by an edit along each way, and how far real faces with the attribute
    are from others, in standard deviations over the test faces; a row each."""
    model, mu, test = lab.run("celeba64").model, codes(lab)[1], lab.faces.test
    seen, has = judged(lab, mu), varied(test.labels, test.label_names)
    shown = [name for name in SHOWN if name in has and name in steps(lab)["mean difference"]]
    spread, some, edited, real = seen.std(0), mu[:EDITED], [], []

    def readers(images: Tensor) -> Tensor:
        return judged(lab, encode_set(model, images)[0])

    before = readers(decode_set(model, some))
    for way, each in steps(lab).items():
        for name in shown:
            change = effect(model, some, has[name][:EDITED], each[name], readers, before) / spread
            error = change.std(0) / len(some) ** 0.5
            edited.append(change_row(lab, way, name, change.mean(0), error))
    for name in shown:
        one, other = seen[has[name]], seen[~has[name]]
        error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt() / spread
        real.append(change_row(lab, REAL, name, (one.mean(0) - other.mean(0)) / spread, error))
    return edited, real


def change_row(lab: Lab, way: str, name: str, change: Tensor, error: Tensor) -> dict:
    """What changes of an attribute, and what else changes most."""
    read, off = (dict(zip(judges(lab), each.tolist(), strict=True)) for each in (change, error))
    own = read.pop(name)
    other = max(read, key=lambda each: abs(read[each]))
    return {"edited": name, "along": way, "own": own, "±, own": off[name], "most else": other,
            "by": read[other], "±, else": off[other], "share of own": abs(read[other] / own)}


def edits(lab: Lab) -> Table:
    """What each edit changes of what judges read, in standard deviations over test faces, and the
    one of all other attributes that it changes most; last, how real faces differ."""
    keep, (edited, real) = lab.found.keep, changes(lab)
    shares = [row["share of own"] for row in edited]
    keep("edits.passed", sum(share < PASSES for share in shares))
    keep("edits.least", min(shares))
    keep("edits.most", max(shares))
    keep("edits.real_least", min(row["share of own"] for row in real))
    return Table(edited + real, {"own": "+.2f", "±, own": ".2f", "by": "+.2f", "±, else": ".2f",
                        "share of own": ".0%"}, fold=f"All {len(edited)} edits, and real faces")
