"""What linear probes read from the codes of faces and from their pixels, and what edits change."""

from __future__ import annotations

from functools import cached_property

import torch
from scipy.optimize import brentq
from torch import Tensor

from lab import linear as pca
from lab.chapters.faces import SHOWN
from lab.chapters.faces import Chapter as Faces
from lab.chapters.scale import Scale
from lab.latent import Probe, Reading, edit_steps, effect, fit_probes, mean_auc, read, varied
from lab.linear import Spectrum, mean_and_error, pca_scores
from lab.recipes import RECIPES
from lab.runs import Run
from lab.samples import features
from lab.session import Lab
from lab.show import Figure, Table, finite
from lab.training import decode_set, draw_codes, encode_set, generator, lerp
from vae_helpers import picture, tile

REAL = "real faces, with it less without"
WAYS = {"mean difference": "mean", "at equal others": "equal", "probe's direction": "probe"}
LARGE = {"celeba128": "b1_long", "celeba128, half": "b1", "celeba128-b4": "b4",
         "celeba128-b10": "b10"}

# ---- other codes of the same faces


def codes_of(run: Run, images: Tensor) -> Tensor:
    """mu of images (N, d)."""
    return encode_set(run.model, images)[0]


def as_dear(spectrum: Spectrum, rate: float) -> float | None:
    """The decoder variance for which the best linear VAE spends so many nats on an image."""
    top = spectrum.eigenvalues[0].item()
    least = max(spectrum.eigenvalues[-1].item(), 1e-9 * top)

    def beyond(share: float) -> float:
        return pca.linear_optimum(spectrum, top ** (1 - share) * least ** share).rate - rate

    if not 0 < rate < beyond(1.0) + rate:
        return None
    return top * (least / top) ** brentq(beyond, 0.0, 1.0)


def linear_posteriors(spectrum: Spectrum, scores: Tensor, sigma2: float) -> tuple[Tensor, Tensor]:
    """mu and logvar (N, k) of the best linear VAE's live dimensions, from PCA scores."""
    kept = spectrum.eigenvalues[: scores.shape[1]]
    kept = kept[kept > sigma2]
    mu = scores[:, : len(kept)].double() * (kept - sigma2).sqrt() / kept
    return mu.float(), (sigma2 / kept).log().float().expand_as(mu)


# ---- numbers of a matrix


def beside(matrix: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """Of changes by edited and by read attribute: the mean on the diagonal, the mean size off it,
    and the largest off it as a share of its row's own."""
    own = [row[name] for name, row in matrix.items()]
    rest = [(abs(value), abs(row[name])) for name, row in matrix.items()
            for other, value in row.items() if other != name]
    return {"diagonal": mean_of(own), "rest": mean_of([value for value, _ in rest]),
            "worst": max((value / mine for value, mine in rest if mine), default=None)}


def mean_of(values: list[float | None]) -> float | None:
    """The mean of numbers; None where there are none, or one of them is missing."""
    return sum(values) / len(values) if values and None not in values else None


# ---- the chapter


class Chapter:
    """Logistic probes of attributes, and edits along what they found, judged by other probes."""

    FEW = 3_000         # training faces that the models of 128×128 are compared on
    EDITED = 200        # test faces that are edited

    def __init__(self, lab: Lab, scale, faces: Faces):
        self.lab, self.faces = lab, faces
        self.scale: Scale = scale.faces
        self.train, _, self.test = lab.faces
        self.names = self.train.label_names

    # ---- codes of training and test faces, and what is read from them

    @cached_property
    def pca(self) -> tuple[Tensor, Tensor]:
        """As many PCA scores as the model has dimensions."""
        return tuple(pca_scores(self.scale.spectrum, each.images, self.faces.recipe.latent)
                     for each in (self.train, self.test))

    @cached_property
    def codes(self) -> tuple[Tensor, Tensor]:
        """mu of the face model."""
        return self.faces.train_codes[0], self.faces.codes[0]

    @cached_property
    def draws(self) -> dict[str, tuple[Tensor, Tensor] | None]:
        """Draws from the face model's posteriors, and from a linear VAE's of as many nats."""
        seed, spectrum = self.lab.settings.seed, self.scale.spectrum
        own = self.faces.train_codes, self.faces.codes
        sigma2 = as_dear(spectrum, self.faces.kl.sum().item())
        linear = sigma2 and [linear_posteriors(spectrum, s, sigma2) for s in self.pca]
        return {name: each and tuple(draw_codes(*each[i], generator("cpu", seed, "probes",
                                                                          f"{name}, {i}"))
                                   for i in (0, 1))
                for name, each in (("draws", own), ("linear", linear))}

    def reading(self, train: Tensor, test: Tensor) -> dict[str, Reading]:
        """What probes that are fitted on codes of the first training faces read of test faces."""
        probes = fit_probes(train, self.train.labels[: len(train)], self.names)
        return read(probes, test, self.test.labels, self.names)

    @cached_property
    def readings(self) -> dict[str, dict[str, Reading]]:
        """What is read from the codes, from as many PCA scores, and from both together."""
        both = tuple(torch.cat(pair, 1) for pair in zip(self.codes, self.pca, strict=True))
        kinds = {"codes": self.codes, "pca": self.pca, "both": both} | self.draws
        return {kind: self.reading(*each) if each else {} for kind, each in kinds.items()}

    # ---- every attribute

    def table(self) -> Table:
        """Every attribute read from codes and from as many PCA scores, by falling difference."""
        rows, found = [self._row(name) for name in self.names], self.lab.found
        for what, sign in (("better", 1), ("worse", -1)):
            clear = [row for row in rows if (row["difference"] or 0) * sign > 2 * (row["±"] or 0)]
            found.keep(f"probes.{what}", len(clear), "attributes",
                       note=f"codes {what} than PCA scores by 2 errors")
        for name in set(SHOWN) & set(self.readings["codes"]):
            found.keep(f"probes.{name.lower()}", self.readings["codes"][name].auc,
                       run=self.faces.celeba)
        rows.sort(key=lambda row: -2 if row["difference"] is None else row["difference"],
                  reverse=True)
        return Table(rows, dict.fromkeys(("AUC, codes", "AUC, PCA", "±"), ".3f")
                     | {"difference": "+.3f"}
                     | dict.fromkeys(("have it", "balanced, codes", "balanced, PCA",
                                      "right, codes", "right, majority"), ".0%"),
                     unshown=("balanced, codes", "balanced, PCA"))

    def _row(self, name: str) -> dict:
        """What is read of one attribute; the reason where nothing is."""
        row = dict.fromkeys(("attribute", "have it", "AUC, codes", "AUC, PCA", "difference", "±",
                             "balanced, codes", "balanced, PCA", "right, codes",
                             "right, majority", "note"))
        ours, pca = (self.readings[kind].get(name) for kind in ("codes", "pca"))
        if ours is None:
            return row | {"attribute": name, "note": self._why_not(name)}
        difference, error = mean_and_error(ours.parts - pca.parts)
        return row | {
            "attribute": name, "have it": ours.share, "AUC, codes": ours.auc, "AUC, PCA": pca.auc,
            "difference": difference, "±": finite(error), "balanced, codes": ours.balanced,
            "balanced, PCA": pca.balanced, "right, codes": ours.accuracy,
            "right, majority": ours.majority, "note": ""}

    def _why_not(self, name: str) -> str:
        """Which faces do not differ in an attribute that no probe reads."""
        among = "training" if name not in varied(self.train.labels, self.names) else "test"
        return f"the {among} faces do not differ in it"

    # ---- means over attributes

    def summary(self) -> Table:
        """Means over attributes: of codes and PCA, at equal nats, and by β at 128×128."""
        celeba, heads = self.faces.celeba, self.readings
        latent, nats = celeba.recipe.latent, self.faces.kl.sum().item()
        n = len(self.train)
        rows = [self._mean("pca_auc_mean", f"{latent} PCA scores of the pixels", heads["pca"], n),
                self._mean("auc_mean", "celeba64: the code μ", heads["codes"], n, celeba, nats),
                self._mean("both_auc_mean", "both together", heads["both"], n),
                self._mean("draws_auc", "celeba64: draws z", heads["draws"], n, celeba, nats),
                self._mean("linear_draws_auc", "a linear VAE of as many nats: draws z",
                           heads["linear"], n, nats=nats)]
        self._against("difference", heads["codes"], heads["pca"], "codes less PCA scores")
        self._against("added", heads["both"], heads["pca"], "both together less PCA scores")
        self._against("at_equal_nats", heads["draws"], heads["linear"], "draws of both")
        return Table(rows + self.by_beta(), {
            "AUC, mean": ".4f", "±": ".4f", "balanced accuracy": ".1%", "nats": ".0f",
            "training faces": ",", "β": "g"}, unshown=("attributes", "balanced accuracy"))

    def by_beta(self) -> list[dict]:
        """Rows of the models of 128×128 by few training faces, and of others by as many."""
        few, latent = min(self.FEW, len(self.train)), RECIPES["celeba128"].latent
        scores, (codes, test) = [each[:, :latent] for each in self.pca], self.codes
        found = {"pca_few": self.reading(scores[0][:few], scores[1]),
                 "few": self.reading(codes[:few], test)}
        rows = [self._mean("pca_auc_few", f"{latent} PCA scores, of 64×64", found["pca_few"], few),
                self._mean("auc_few", "celeba64: the code μ", found["few"], few,
                           self.faces.celeba, self.faces.kl.sum().item())]
        for label, key in LARGE.items():
            run = self.lab.optional(label)
            if run is None:
                rows.append(self._mean("", f"{label}: not trained here", {}, None))
                continue
            train, _, test = self.lab.splits(run.recipe)
            found[key] = self.reading(codes_of(run, train.images[:few]), codes_of(run, test.images))
            rows.append(self._mean(f"auc_{key}", f"{label}: the code μ", found[key], few, run,
                                   run.chosen["test_kl"]))
        for key in ("b4", "b10", "b1_long"):
            if key in found and "b1" in found:
                self._against(f"{key}_less_b1", found[key], found["b1"], "128×128")
        return rows

    def _mean(self, key: str, name: str, readings: dict[str, Reading], n: int | None, run=None,
              nats: float | None = None) -> dict:
        """The row of one kind of code, and its findings."""
        mean, error = mean_and_error(mean_auc(readings)) if readings else (None, None)
        self.lab.found.keep(f"probes.{key}", mean, run=run, note="mean AUC over attributes")
        balanced = [reading.balanced for reading in readings.values()]
        return {"read from": name, "β": run and run.recipe.beta, "epochs": run and len(run.history),
                "nats": finite(nats), "training faces": n, "attributes": len(readings) or None,
                "AUC, mean": finite(mean), "±": finite(error),
                "balanced accuracy": mean_of(balanced)}

    def _against(self, key: str, ours: dict[str, Reading], other: dict[str, Reading],
                 note: str) -> None:
        """The difference of two mean AUCs of the same faces, with its error."""
        if ours and other:
            mean, error = mean_and_error(mean_auc(ours) - mean_auc(other))
            self.lab.found.keep(f"probes.{key}", mean, note=f"mean AUC, {note}")
            self.lab.found.keep(f"probes.{key}_error", error)

    # ---- edits

    @cached_property
    def halves(self) -> tuple[dict[str, Probe], dict[str, Probe]]:
        """Probes of every second training face, which edit, and of the others, which judge."""
        (codes, _), labels, shown = self.codes, self.train.labels, [*map(self.names.index, SHOWN)]
        return (fit_probes(codes[::2], labels[::2, shown], SHOWN),
                fit_probes(codes[1::2], labels[1::2], self.names))

    @cached_property
    def steps(self) -> dict[str, dict[str, Tensor]]:
        """The steps that add each shown attribute, by way, from half of the training faces."""
        shown = {name: self.halves[0][name] for name in SHOWN
                 if all(name in half for half in self.halves)}
        return edit_steps(shown, self.codes[0][::2], self.train.labels[::2], self.names)

    def says(self, mu: Tensor, images: Tensor) -> Tensor:
        """Logits (N, readers): of the judging probes, then of a classifier that sees no code."""
        judges = [probe.logit(mu) for probe in self.halves[1].values()]
        net = self.lab.face_judge.net
        described = features(net, images).to(net.classify.weight.device)
        seen = net.classify(described).detach().cpu().double()
        return torch.cat([torch.stack(judges, 1), seen], 1)

    @cached_property
    def effects(self) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
        """By way and edited attribute, the mean change of what each reader says and its error, in
        standard deviations over the test faces; and how far real faces with it are from others."""
        model, n, seen = self.faces.model, self.EDITED, self.says(self.codes[1], self.test.images)
        mu, spread, found = self.codes[1][:n], seen.std(0), {way: {} for way in (*WAYS, REAL)}

        def readers(images: Tensor) -> Tensor:
            return self.says(encode_set(model, images)[0], images)

        before = readers(decode_set(model, mu))
        for way, steps in self.steps.items():
            for name, step in steps.items():
                has = self.test.labels[:n, self.names.index(name)]
                change = effect(model, mu, has, step, readers, before) / spread
                found[way][name] = change.mean(0), change.std(0) / len(mu) ** 0.5
        for name, has in varied(self.test.labels, self.names).items():
            if name in self.steps["mean difference"]:
                apart = seen[has].mean(0) - seen[~has].mean(0)
                errors = seen[has].var(0) / has.sum() + seen[~has].var(0) / (~has).sum()
                found[REAL][name] = apart / spread, errors.sqrt() / spread
        return found

    def edits(self) -> Table:
        """What each edit changes of what judges read, in standard deviations over test faces."""
        rows, found = [], self.lab.found
        for way, short in (WAYS | {REAL: "real"}).items():
            matrix, most, took = {}, [], []
            for name in SHOWN:
                row = self._changed(way, name)
                rows.append(row)
                if row[name] is not None:
                    took.append((row["length"], row["kept"]))
                    matrix[name] = {other: row[other] for other in SHOWN if row[other] is not None}
                    most.append(abs(row["by"] or 0) / abs(row[name]))
            for what, value in beside(matrix).items():
                found.keep(f"edits.{short}_{what}", value, run=self.faces.celeba, note=way)
            means = {"else": most, "length": [one for one, _ in took],
                     "kept": [two for _, two in took]}
            for what, values in means.items():
                found.keep(f"edits.{short}_{what}", mean_of(values), run=self.faces.celeba,
                           note=way)
        return Table(rows, dict.fromkeys((*SHOWN, "own, by the classifier", "by"), "+.2f")
                     | {"±": ".2f", "length": ".1f", "kept": ".0%"})

    def _changed(self, way: str, name: str) -> dict:
        """The row of one edit: the shown attributes, and what else changes most of all."""
        row = dict.fromkeys(("edited", "along", "length", *SHOWN, "±", "kept",
                             "own, by the classifier", "most else", "by"))
        row |= {"edited": name, "along": way}
        if name not in self.effects[way]:
            return row | {"most else": self._why_not(name)}
        (change, error), judges = self.effects[way][name], list(self.halves[1])
        said = {other: finite(value) for other, value in zip(judges, change, strict=False)}
        rest = {other: value for other, value in said.items() if other != name and value}
        other = max(rest, key=lambda each: abs(rest[each]), default="")
        if name in self.steps.get(way, {}):
            row |= self._promise(self.steps[way][name], name, said[name])
        return row | {shown: said.get(shown) for shown in SHOWN} | {
            "±": finite(error[: len(judges)].max()), "most else": other, "by": rest.get(other),
            "own, by the classifier": finite(change[len(judges) + self.names.index(name)])}

    def _promise(self, step: Tensor, name: str, change: float | None) -> dict[str, float | None]:
        """How many standard deviations of codes a step is long, and how much of the change that its
        judge sees in the moved code is there once the code is decoded and encoded again."""
        judge, codes = self.halves[1][name], self.codes[1]
        promised = (judge.weight @ step / judge.logit(codes).std()).item()
        length = (step / codes.std(0).clamp(min=1e-12)).norm()
        return {"length": finite(length),
                "kept": finite(change / promised) if change and promised else None}

    def edited(self) -> Figure:
        """Four test faces, each edited in one attribute both ways, along two directions."""
        sheets = {}
        for way in ("at equal others", "probe's direction"):
            rows = [decode_set(self.faces.model, lerp(mu - 2 * step, mu + 2 * step, 5).float())
                    for mu, step in zip(self.codes[1], self.steps[way].values(), strict=False)]
            rows = rows or [decode_set(self.faces.model, self.codes[1][:5])]
            sheets[f"{way}, −2 to 2 steps"] = tile(torch.cat(rows), 5)
        names = ", ".join(self.steps[way]) or "no attribute has a direction"
        drawn = picture(sheets, f"Taken away to the left, added to the right, row by row: {names}")
        return self.lab.figure(drawn, "edited", "Four test faces, each with one attribute taken "
                               "away and added in five steps, along two directions", picture=True)
