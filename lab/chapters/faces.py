"""Task 3: what a VAE of faces makes of the regions of its latent space."""

from __future__ import annotations

from functools import cached_property

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lab import density, linear
from lab import latent as latents
from lab import samples as sampled
from lab.chapters.scale import FITTED_ON, Scale, best_gain, loss_row, pca_terms, scale_of
from lab.density import aggregate_posterior
from lab.latent import traverse
from lab.recipes import RECIPES
from lab.runs import Run
from lab.samples import blur_shown, features
from lab.session import Lab
from lab.show import Figure, Table, finite, labelled_rows, number
from lab.training import decode_set, draw_images, draw_prior, encode_set, reconstruct
from vae_helpers import VAE, as_pixels, kl_divergence

SCALES = (0.25, 1.0, 1.5, 2.0, 3.0)         # s: what the prior's draws are multiplied by
SHOWN = ("Smiling", "Eyeglasses", "Blond_Hair", "Male")
CLAIMED_LOSS = 6290.0       # of the earlier submission, which does not say how it cropped


# ---- closed forms


def cost_of_fewer(spectrum: linear.Spectrum, sigma2: float, few: int, many: int) -> float:
    """Nats per image that a linear VAE loses with `few` latent dimensions instead of `many`."""
    loss = [linear.linear_optimum(spectrum, sigma2, n).loss(a=1 / (2 * sigma2))
            for n in (few, many)]
    return loss[0] - loss[1]


def predicted(spectrum64: linear.Spectrum, beta: float,
              latent: int = 128) -> linear.LinearOptimum:
    """The linear optimum at 128×128 for β and squared error on [-1, 1], from the spectrum at 64×64.

    There the decoder's variance is β/8, and every eigenvalue is four times that at 64×64, since
    each pixel becomes four; what counts is their ratio, so β/32 does here.
    """
    return linear.linear_optimum(spectrum64, beta / 32, latent)


# ---- regions


def saturated(images: Tensor) -> Tensor:
    """The share of an image's values that round to within two grey levels of 0 or 255, (n,)."""
    x = as_pixels(images).flatten(1)
    return ((x < 2.5 / 255) | (x > 252.5 / 255)).float().mean(1)


def numbers_of(images: Tensor) -> dict[str, float]:
    """What samples have in common: spread over them, sharpness, saturated values."""
    x = as_pixels(images)
    return {"spread": x.std(0).mean().item(), "sharpness": sampled.sharpness(x).mean().item(),
            "saturated": saturated(x).mean().item()}


def by_scale(model: VAE, judge, z: Tensor, scales: tuple[float, ...]) -> list[dict[str, float]]:
    """Numbers of samples whose latent vectors z (n, d) are multiplied by each scale s."""
    rows = []
    for s in scales:
        images = decode_set(model, s * z)
        found = judge.measure(images)
        rows.append({"s": s, "norm": (s * z).norm(dim=1).mean().item(), "fd": found["distance"],
                     "blur_px": found["blur"], "shown": blur_shown(found), **numbers_of(images)})
    return rows


def around_code(model: VAE, mu: Tensor, n: int, s: float, seed: int) -> Tensor:
    """The decoding of a code (1, d), and of n - 1 draws around it."""
    noise = s * draw_prior(n, mu.shape[1], seed)
    noise[0] = 0
    return decode_set(model, mu + noise)


def along_direction(model: VAE, mu: Tensor, direction: Tensor) -> Tensor:
    """Decodings of a code (1, d) moved by -1, 0, 1 and 2 times a direction (d,)."""
    return decode_set(model, mu + torch.arange(-1, 3)[:, None] * direction)


# ---- attributes


def attribute_directions(codes: Tensor, labels: Tensor,
                         names: tuple[str, ...]) -> dict[str, Tensor]:
    """The mean code with an attribute less that without, (d,), of those that some have and some
    lack."""
    directions = {}
    for name, has in zip(names, labels.bool().T, strict=True):
        if has.any() and not has.all():
            directions[name] = codes[has].mean(0) - codes[~has].mean(0)
    return directions


def read_attribute(scores: Tensor, has: Tensor) -> float | None:
    """The AUC of scores (n,) for an attribute; None where all faces have it, or none."""
    has = has.bool()
    if has.all() or not has.any():
        return None
    return float(roc_auc_score(has.numpy(), scores.numpy()))


def most_alike(directions: dict[str, Tensor], name: str) -> tuple[str, float]:
    """The other direction with the largest cosine in size, and that cosine."""
    def cosine(other: str) -> float:
        return torch.cosine_similarity(directions[name], directions[other], dim=0).item()

    others = [other for other in directions if other != name]
    other = max(others, key=lambda each: abs(cosine(each)))
    return other, cosine(other)


# ---- memory


def distances_to_training(groups: dict[str, Tensor], training: Tensor, net) -> dict[str, dict]:
    """Mean distance of each group's images to their nearest training image, with errors, in pixels
    and in a classifier's features; and the index of the nearest in pixels."""
    known, found = features(net, training), {}
    for name, images in groups.items():
        pixels = sampled.nearest(images, training)
        described = sampled.nearest(features(net, images), known)
        found[name] = {"index": pixels.index}
        for what, near in (("pixels", pixels), ("features", described)):
            mean, error = linear.mean_and_error(near.distance)
            found[name] |= {what: mean, f"{what}_error": error}
    return found


# ---- the chapter


class Chapter:
    """The face model, asked for samples, directions and memories."""

    def __init__(self, lab: Lab, scale):
        self.lab = lab
        self.scale: Scale = scale.faces
        self.recipe = RECIPES["celeba64"]
        self.train, _, self.test = lab.faces

    # ---- what several cells need

    @cached_property
    def celeba(self) -> Run:
        return self.lab.train("celeba64")

    @property
    def model(self) -> VAE:
        return self.celeba.model

    @cached_property
    def codes(self) -> tuple[Tensor, Tensor]:
        """mu and logvar of the test faces."""
        return encode_set(self.model, self.test.images)

    @cached_property
    def train_codes(self) -> tuple[Tensor, Tensor]:
        """mu and logvar of the training faces."""
        return encode_set(self.model, self.train.images)

    @cached_property
    def kl(self) -> Tensor:
        """KL of every dimension, a mean over test faces, (d,)."""
        return kl_divergence(*self.codes).double().mean(0)

    @cached_property
    def dims(self) -> Tensor:
        """The dimensions by falling KL."""
        return self.kl.argsort(descending=True)

    @cached_property
    def pca(self) -> dict[str, dict]:
        """Test terms of PCA through a sigmoid, plain and with one gain."""
        test, seed = self.test.images, self.lab.settings.seed
        gain = best_gain(self.recipe, self.scale, self.train.images[:FITTED_ON], seed)
        self.lab.found.add("faces_pca.gain", gain, note="chosen on training faces")
        names = {"PCA through a sigmoid": 1.0, "the same with one gain": gain}
        return {name: pca_terms(self.recipe, self.scale, test, seed, by)
                for name, by in names.items()}

    @cached_property
    def samples(self) -> Tensor:
        """As many draws from the prior as there are test faces, decoded."""
        return draw_images(self.model, len(self.test), self.lab.settings.seed)

    @cached_property
    def scales(self) -> list[dict[str, float | None]]:
        """Numbers of samples by scale, then of real faces; spread and sharpness over s = 1."""
        judge, seed = self.lab.face_judge, self.lab.settings.seed
        z = draw_prior(len(self.test), self.recipe.latent, seed)
        rows = by_scale(self.model, judge, z, SCALES)
        at_one = dict(rows[SCALES.index(1.0)])
        real = judge.ends["real"]
        rows.append({"s": None, "norm": None, "fd": judge.floor, "blur_px": real["blur"],
                     "shown": blur_shown(real), **numbers_of(self.test.images)})
        return [row | {what: row[what] / at_one[what] for what in ("spread", "sharpness")}
                for row in rows]

    @cached_property
    def directions(self) -> dict[str, Tensor]:
        """The direction of every attribute that some training faces have and some lack."""
        return attribute_directions(self.train_codes[0], self.train.labels, self.train.label_names)

    def _find(self, name: str, value: float | None, unit: str = "", note: str = "") -> None:
        if finite(value) is not None:
            self.lab.found.add(name, value, unit, run=self.celeba, note=note)

    def _picture(self, rows: dict[str, Tensor], title: str, name: str, alt: str,
                 blocks: int = 1) -> Figure:
        """Rows of faces at twice their size, their names at the left."""
        return self.lab.figure(labelled_rows(rows, title, zoom=2, label=105, blocks=blocks), name,
                               alt, picture=True)

    # ---- what it has learnt

    def losses(self) -> Table:
        """The mean image, PCA and the face model on the scale from floor to mean image."""
        run, scale, top = self.celeba, self.scale, self.scale.test_mean_image
        mean = {"test_loss": top, "test_kl": 0.0, "test_reconstruction": top}
        rows = [loss_row(name, terms, scale)
                for name, terms in ({"mean image": mean} | self.pca).items()]
        rows.append(loss_row("celeba64", run.chosen, scale, run))
        heads = {"above_floor": "above the floor", "test_kl": "KL", "distortion": "distortion",
                 "test_loss": "test loss", "way": "share of the way"}
        for key, row, of in (("faces_pca", rows[1], None), ("faces_pca_gain", rows[2], None),
                             ("celeba64", rows[3], run)):
            for name, head in heads.items():
                self.lab.found.add(f"{key}.{name}", row[head], run=of, note="test")
        for name, head in {"loss": "training loss", "seconds": "seconds",
                           "parameters": "parameters"}.items():
            self._find(f"celeba64.{name}", rows[3][head])
        self._find("celeba64.kl", run.chosen["kl"], "nats", "training")
        self._find("celeba64.training_above_floor", run.chosen["loss"] - scale.floor, "nats")
        self.units(), self.cropping()                   # their numbers stand in the prose
        return Table(rows, {"parameters": ",", "training loss": ",.1f", "test loss": ",.1f",
                            "above the floor": ".1f", "KL": ".1f", "distortion": ".1f",
                            "share of the way": ".0%", "seconds": ",.0f"},
                     unshown=("parameters", "distortion"))

    def examples(self) -> Figure:
        """Test faces, their reconstructions, and samples."""
        shown = self.test.images[:8]
        return self._picture(
            {"test faces": shown, "reconstructed": reconstruct(self.model, shown),
             "samples": self.samples[:8]},
            "What passes through the code of a face", "faces",
            "Eight test faces, their reconstructions below them, and eight samples: softer than "
            "the faces, and faces")

    # ---- by distance from the centre

    def by_distance(self) -> Figure:
        """The same eight draws at five scales, with the numbers of many draws beside them."""
        self.table_by_scale()                           # some of its numbers stand in the prose
        z = draw_prior(8, self.recipe.latent, self.lab.settings.seed)
        rows = {f"s = {row['s']:g}\nFD {row['fd']:.3g}\nburnt {number(row['saturated'], '.0%')}":
                decode_set(self.model, row["s"] * z)
                for row in self.scales if row["s"]}
        return self._picture(rows, "The same eight draws z, multiplied by s", "faces-by-scale",
                             "Eight draws decoded at five scales: at a quarter eight times nearly "
                             "the same face, at three burnt masks")

    def table_by_scale(self) -> Table:
        """The same numbers, beside those of real faces."""
        heads = {"norm": "norm of z", "fd": self.lab.face_judge.name,
                 "shown": "equivalent blur, pixels", "saturated": "saturated values",
                 "spread": "spread, over that at s = 1",
                 "sharpness": "sharpness, over that at s = 1"}
        rows = []
        for row in self.scales:
            key = f"s{row['s']:g}".replace(".", "") if row["s"] else "real"
            for what in ("fd", "blur_px", "saturated", "spread", "sharpness"):
                self._find(f"faces.{what}.{key}", row[what])
            rows.append({"faces": f"samples, s = {row['s']:g}" if row["s"] else "real"}
                        | {head: row[what] for what, head in heads.items()})
        best = min(self.scales[:-1], key=lambda row: row["fd"])
        self._find("faces.best_scale", best["s"], note="of least FD")
        self._find("faces.best_sharpness", best["sharpness"], note="over that at s = 1")
        return Table(rows, {head: ".0%" for head in heads.values()}
                     | {heads["norm"]: ".1f", heads["fd"]: ".3g", heads["shown"]: ".1f",
                        heads["saturated"]: ".1%"})

    # ---- around a face, along dimensions and directions

    def regions(self) -> Figure:
        """Draws around one test face, and the three dimensions of highest KL."""
        self.dimensions()                               # its numbers stand in the prose
        mu, seed = self.codes[0][:1], self.lab.settings.seed
        first, second, third = self.dims[:3].tolist()
        around = around_code(self.model, mu, 4, 0.7, seed)
        along = [traverse(self.model, mu, dim, 3.0, 4) for dim in (first, second, third)]
        rows = {f"μ + 0.7 ε |\ndim. {first}": torch.cat([around, along[0]]),
                f"dim. {second} |\ndim. {third}": torch.cat(along[1:])}
        return self._picture(rows, "Around one face, and along three dimensions, from −3 to 3",
                             "faces-regions", "A test face and three draws around it, and "
                             "traversals of the three latent dimensions of highest KL: hair, "
                             "background and light change together", 2)

    def dimensions(self) -> Table:
        """The attributes that the five dimensions of highest KL correlate with most."""
        correlation = latents.attribute_correlation(self.codes[0], self.test.labels)
        varied = self.codes[0].var(0).argsort(descending=True)
        shared = set(self.dims[:10].tolist()) & set(varied[:10].tolist())
        rows = []
        for dim in self.dims[:5].tolist():
            row = {"dimension": dim, "KL": self.kl[dim].item()}
            top = correlation[dim].abs().argsort(descending=True).tolist()
            for k, place in zip(top, ("first", "second", "third"), strict=False):
                row |= {place: self.test.label_names[k],
                        f"r, {place}": correlation[dim, k].item()}
            rows.append(row)
        self._find("faces.dims_shared", len(shared), note="of ten, by KL and by variance of mu")
        self._find("faces.dims_correlation", max(abs(row["r, first"]) for row in rows))
        return Table(rows, {"KL": ".2f"} | {f"r, {place}": "+.2f"
                                            for place in ("first", "second", "third")})

    def attributes(self) -> Figure:
        """One test face moved along the directions of four attributes."""
        self.reading()                                  # its numbers stand in the prose
        mu = self.codes[0][:1]
        moved = {name: along_direction(self.model, mu, self.directions[name])
                 for name in SHOWN if name in self.directions}
        moved = moved or {"no attribute has a direction": decode_set(self.model, mu)}
        names, blocks = list(moved), 2 - len(moved) % 2
        rows = {" |\n".join(names[i:i + blocks]):
                torch.cat([moved[name] for name in names[i:i + blocks]])
                for i in range(0, len(names), blocks)}
        return self._picture(rows, "One test face, less an attribute, as it is, and plus it once "
                             "and twice", "faces-attributes", "One face moved along the directions "
                             "of smiling, glasses, blond hair and male: each comes, and other "
                             "things with it", blocks)

    def reading(self) -> Table:
        """How well an attribute can be read along its direction, and along the best dimension."""
        names, (mu, _) = self.test.label_names, self.codes
        correlation = latents.attribute_correlation(self.train_codes[0], self.train.labels)
        rows, better = [], []
        for name in SHOWN:
            row = dict.fromkeys(("share of test faces", "AUC, its direction", "AUC, one dimension",
                                 "dimension", "direction most alike", "cosine"))
            if name in self.directions:
                k, key = names.index(name), name.lower()
                has, dim = self.test.labels[:, k], int(correlation[:, k].abs().argmax())
                along = read_attribute(mu @ self.directions[name], has)
                alone = read_attribute(mu[:, dim] * correlation[dim, k].sign(), has)
                other, cosine = most_alike(self.directions, name)
                row = dict(zip(row, (has.double().mean().item(), along, alone, dim, other,
                                     cosine), strict=True))
                self._find(f"auc.{key}", along)
                self._find(f"auc.{key}_dimension", alone)
                self._find(f"auc.{key}_cosine", cosine, note=other)
                better += [along > alone] if along is not None else []
            rows.append({"attribute": name} | row)
        self._find("auc.better", sum(better), note="attributes read better along the direction")
        return Table(rows, {"share of test faces": ".0%", "AUC, its direction": ".3f",
                            "AUC, one dimension": ".3f", "cosine": "+.2f"})

    # ---- other densities, memories, units

    def densities(self) -> Table:
        """Faces from several densities, between real faces and their mean, as the judge sees them:
        Fréchet distance, and the blur of real faces that comes to as much."""
        judge, posterior = self.lab.face_judge, aggregate_posterior(*self.train_codes)
        drawn = draw_images(self.model, len(self.test), self.lab.settings.seed, posterior)
        rebuilt = reconstruct(self.model, self.test.images)
        mean = linear.mean_image(self.train.images).float().view(1, *rebuilt.shape[1:])
        ends = judge.ends
        groups = {"real": ("training faces", ends["real"], self.train.images[:len(self.test)]),
                  "reconstructions": ("reconstructions of the test faces", None, rebuilt),
                  "aggregate": ("the aggregated posterior, as a Gaussian", None, drawn),
                  "prior": ("N(0, I)", None, self.samples),
                  "mean_image": ("the mean image", ends["mean"], mean)}
        rows = []
        for key, (name, found, images) in groups.items():
            found = found or judge.measure(images)
            self._find(f"faces.fd.{key}", found["distance"])
            self._find(f"faces.blur_px.{key}", found["blur"], "pixels")
            rows.append({"faces from": name, judge.name: found["distance"],
                         "equivalent blur, pixels": blur_shown(found),
                         "sharpness, thousandths": 1e3 * sampled.sharpness(images).mean().item()})
        self._find("faces.judge_accuracy", judge.accuracy, note="of the test faces' attributes")
        self._find("faces.aggregate_kl", density.kl_gaussian_to_standard(*posterior), "nats")
        return Table(rows, {"equivalent blur, pixels": ".1f", "sharpness, thousandths": ".2f"})

    def neighbours(self) -> Figure:
        """Samples above the training faces nearest to them."""
        samples, known, net = self.samples[:8], self.train.images, self.lab.face_judge.net
        pixels = sampled.nearest(samples, known).index
        described = sampled.nearest(features(net, samples), features(net, known)).index
        rows = {"samples": samples, "nearest, in\npixels": known[pixels],
                "nearest, in\nfeatures": known[described]}
        return self._picture(rows, "Samples and the training faces nearest to them",
                             "faces-nearest", "Eight samples above their nearest training faces in "
                             "pixels and in features")

    def memory(self) -> Table:
        """Distances to the nearest training face, with what a remembered one would score."""
        n = min(200, len(self.test))
        known, test = self.train.images, self.test.images[:n]
        groups = {"samples": self.samples[:n], "reconstructed": reconstruct(self.model, test),
                  "test": test, "control": reconstruct(self.model, known[:n])}
        words = dict(zip(groups, ("samples", "test faces, reconstructed", "test faces",
                                  "training faces, reconstructed: what memory would score"),
                         strict=True))
        found, rows = distances_to_training(groups, known, self.lab.face_judge.net), []
        index = found["control"]["index"]
        own = (index == torch.arange(len(index))).double().mean().item()
        self._find("memory.control_own", own, note="nearest training face is the face itself")
        heads = {"pixels": "in pixels", "pixels_error": "±, pixels", "features": "in features",
                 "features_error": "±, features"}
        for key, here in found.items():
            for what in heads:
                self._find(f"memory.{key}_{what}", here[what])
            rows.append({"from": words[key]} | {heads[what]: here[what] for what in heads}
                        | {"nearest is its own original": own if key == "control" else None})
        return Table(rows, {head: ".2f" for head in heads.values()}
                     | {"nearest is its own original": ".0%"})

    def units(self) -> Table:
        """How many of the latent dimensions are used, beside linear models with 256 and 128."""
        def row(name: str, kl: Tensor, dof: float, cost: float | None) -> dict:
            return {"model": name, "KL above 0.01 nats": int((kl > 0.01).sum()),
                    "above 0.1": int((kl > 0.1).sum()), "degrees of freedom": dof,
                    "nats spent": kl.sum().item(), "nats that fewer dimensions cost": cost}

        recipe, spectrum, found = self.recipe, self.scale.spectrum, self.lab.found
        dof = latents.degrees_of_freedom(self.codes[1])
        rows = [row(f"celeba64, {recipe.latent} dimensions", self.kl, dof, None)]
        self._find("faces.units_001", rows[0]["KL above 0.01 nats"])
        self._find("faces.units_01", rows[0]["above 0.1"])
        self._find("faces.dof", dof)
        for latent in (recipe.latent, recipe.latent // 2):
            best = linear.linear_optimum(spectrum, recipe.sigma2, latent)
            cost = cost_of_fewer(spectrum, recipe.sigma2, latent, recipe.latent)
            name = f"linear, {latent} dimensions, closed form"
            rows.append(row(name, -0.5 * best.variances.log(), best.dof, cost))
        found.add("faces.cost_of_128", cost, "nats", note="of a linear model of 256")
        found.add("faces.linear_active", rows[1]["KL above 0.01 nats"])
        return Table(rows, {"degrees of freedom": ".1f", "nats spent": ".1f",
                            "nats that fewer dimensions cost": ".1f"})

    # ---- preprocessing

    def cropping(self) -> Table:
        """What the cut changes before any model: the scale of both, and the earlier loss on it."""
        whole, found = self.lab.splits(self.recipe, crop=False), self.lab.found
        sets = {"faces.cropped": ("cropped to the middle square", self.scale, self.test.images),
                "faces.whole": ("whole photographs, squeezed", scale_of(whole, top=384),
                                whole.test.images)}
        rows = []
        for key, (name, scale, images) in sets.items():
            terms = pca_terms(self.recipe, scale, images, self.lab.settings.seed)
            best = linear.linear_optimum(scale.spectrum, self.recipe.sigma2, self.recipe.latent)
            row = {"photographs": name, "floor, training": scale.floor,
                   "floor, test": scale.test_floor, "mean image above it": scale.mean_image,
                   "PCA above it": terms["test_loss"] - scale.test_floor,
                   "total variance": scale.spectrum.total, "directions above ¼": best.active,
                   "a training loss of 6,290, above the floor": CLAIMED_LOSS - scale.floor}
            found.add(f"{key}_floor", scale.floor, "nats", note="training")
            found.add(f"{key}_pca", row["PCA above it"], "nats", note="above the test floor")
            found.add(f"faces.claimed_above_{key.split('.')[1]}", CLAIMED_LOSS - scale.floor,
                      "nats", note=f"of a training loss of {CLAIMED_LOSS:g}")
            rows.append(row)
        found.add("faces.crop_costs", self.scale.floor - rows[1]["floor, training"], "nats")
        return Table(rows, dict.fromkeys(rows[0], ",.1f")
                     | {"total variance": ".0f", "directions above ¼": ","})
