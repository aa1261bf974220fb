"""The theory questions: what KL, noise and price do, shown on five variants of a small VAE."""

from __future__ import annotations

import copy
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from lab import density, latent
from lab import linear as pca
from lab.chapters.theory_plots import plot_map, plot_running
from lab.latent import (
    curvature_law,
    curvatures,
    errors_at,
    logits_at,
    noise_cost,
    shaken,
    two_sample_auc,
)
from lab.runs import Run
from lab.samples import blur_shown, texture
from lab.session import Lab
from lab.show import Figure, Table, finite, labelled_rows
from lab.training import decode_set, draw_codes, draw_images, draw_prior, encode_set, generator
from vae_helpers import (
    VAE,
    as_pixels,
    kl_divergence,
    picture,
    reconstruction_error,
    tile,
)

DEMO = {"VAE": "small", "β = 0": "small-beta0", "autoencoder": "small-ae",
        "averaged": "small-mean", "β = 0.1": "small-sharp"}
IMAGES = 2_000          # test images whose codes are looked at
FITTED = 10_000         # training images whose codes a density is fitted to
NOISES = {"0": 0.0, "quarter": 0.25, "half": 0.5, "1": 1.0, "2": 2.0}    # shares of a spread
PRIOR, FIT = "N(0, I)", "a Gaussian fitted to training images' codes"
HOLDS = 0.1             # the law of the curvature holds if its slope is as near to 1 as this

# ---- Q2: gradients


def apart(a: Tensor, b: Tensor) -> float:
    """How far the mean of a is from that of b along b's mean, in standard errors; (n, d) each.

    Row i of both comes from the same draw, so the error is that of their difference. Along one
    direction because over all d the noise of the others would hide a difference.
    """
    along = F.normalize(b.double().mean(0), dim=0)                  # (d,)
    mean, error = pca.mean_and_error((a.double() - b.double()) @ along)
    return abs(mean) / error


def variance_ratio(a: Tensor, b: Tensor) -> float:
    """The summed variance of b's single draws over that of a's, (n, d) each."""
    return (b.double().var(0).sum() / a.double().var(0).sum()).item()


def pulls(model: VAE, images: Tensor, mu: Tensor, logvar: Tensor, draw: torch.Generator,
          n: int = 20) -> tuple[Tensor, Tensor]:
    """What the reconstruction f pulls each posterior with, the mean over n draws, (N,) each:
    -sum_j mu_j df/dz_j, towards larger means, and sum_j sigma_j eps_j df/dz_j, against noise."""
    model, x = copy.deepcopy(model).cpu().requires_grad_(False), as_pixels(images)
    outward, against = torch.zeros(2, len(mu))
    for _ in range(n):
        shift = (logvar / 2).exp() * torch.randn(mu.shape, generator=draw)
        z = (mu + shift).requires_grad_()
        error = reconstruction_error(model.recipe, model.decode(z), x).sum()
        (slope,) = torch.autograd.grad(error, z)                    # (N, d)
        outward -= (mu * slope).sum(1) / n
        against += (shift * slope).sum(1) / n
    return outward, against


# ---- the chapter


class Chapter:
    """Q1 to Q4, and why the loss is summed; `scale` is the chapter of that name."""

    def __init__(self, lab: Lab, scale):
        self.lab, self.scale, self.keep = lab, scale, lab.found.keep

    def _draw(self, *key) -> torch.Generator:
        return generator("cpu", self.lab.settings.seed, *key)

    @cached_property
    def demo(self) -> dict[str, Run]:
        """The five variants."""
        return {label: self.lab.train(name, log=False) for label, name in DEMO.items()}

    @cached_property
    def images(self) -> Tensor:
        return self.lab.cifar.test.images[:IMAGES]

    @cached_property
    def codes(self) -> dict[str, tuple[Tensor, Tensor]]:
        """mu and logvar (N, d) of the first test images, for every variant."""
        return {label: encode_set(run.model, self.images) for label, run in self.demo.items()}

    @cached_property
    def kl(self) -> dict[str, Tensor]:
        """KL of the codes, (N, d), for every variant that has one."""
        return {label: kl_divergence(*code) for label, code in self.codes.items()
                if self.demo[label].recipe.noise}

    @cached_property
    def distances(self) -> dict[str, Tensor]:
        """-ln overlap of every two posteriors, (N, N), for three weights of the KL."""
        return {label: density.posterior_distances(*self.codes[label])
                for label in ("VAE", "β = 0.1", "β = 0")}

    # ---- Q1

    def kl_twice(self, n: int = 50, draws: int = 2_000) -> Table:
        """The KL in closed form and by draws, of single posteriors and of their mixture."""
        self.density()                                  # its numbers stand in the prose
        rows = []
        for label, key in (("VAE", "q1"), ("β = 0", "q1.beta0")):
            mu, logvar = self.codes[label]
            closed = self.kl[label][:n].sum(1).mean().item()
            sampled, error = latent.kl_monte_carlo(mu[:n], logvar[:n], draws, self._draw("Q1"))
            mixture = density.kl_gaussian_to_standard(*density.aggregate_posterior(mu, logvar))
            every, run = self.kl[label].sum(1).mean().item(), self.demo[label]
            self.keep(f"{key}.closed", closed, "nats", run, f"{n} test images")
            self.keep(f"{key}.sampled", sampled, "nats", run, f"{draws} draws each")
            self.keep(f"{key}.kl", every, "nats", run, f"{len(mu)} test images")
            rows.append({"model": label, f"KL of {n} posteriors": closed,
                         f"by {draws:,} draws": finite(sampled), "±": finite(error),
                         f"KL of {len(mu):,} posteriors": every,
                         "of a Gaussian with their mixture's mean and covariance":
                             self.keep(f"{key}.mixture", mixture, "nats", run)})
        return Table(rows, dict.fromkeys(rows[0], ",.1f") | {
            f"KL of {n} posteriors": ",.3f", f"by {draws:,} draws": ",.3f", "±": ".3f"})

    def density(self) -> Table:
        """Cross-entropy normalised over the 256 grey levels, in bits for each value of a pixel."""
        run, (mu, logvar) = self.demo["VAE"], self.codes["VAE"]
        logits = logits_at(run.model, draw_codes(mu, logvar, self._draw("bits")))
        nats = (reconstruction_error(run.recipe, logits, as_pixels(self.images))
                + self.kl["VAE"].sum(1))
        mean = self.scale.cifar.spectrum.mean.clamp(1 / 510, 1 - 1 / 510)
        mean = torch.logit(mean).view(1, *self.images.shape[1:])        # half a level from 0 and 1
        without = reconstruction_error(run.recipe, mean.expand(self.images.shape),
                                       as_pixels(self.images).double())
        words = {"uniform": 8.0,
                 "mean image": self.keep("q1.bits_mean_image",
                                         density.cross_entropy_bits(without, mean), "bits"),
                 "VAE, by the ELBO: at most": self.keep(
                     "q1.bits", density.cross_entropy_bits(nats, logits), "bits", run, "at most")}
        return Table([{"distribution over 256 levels": name, "bits for each value": bits}
                      for name, bits in words.items()], {"bits for each value": ".2f"})

    def beta_zero(self) -> Figure:
        """The same draws from N(0, I) decoded by the VAE and by the model trained without KL."""
        z = draw_prior(32, self.demo["VAE"].recipe.latent, self.lab.settings.seed)
        panels = {label: tile(decode_set(self.demo[label].model, z), 8)
                  for label in ("VAE", "β = 0")}
        return self.lab.figure(picture(panels, "32 draws from N(0, I), trained with the KL and "
                                       "without"), "q1-beta-zero",
                               "32 samples from N(0, I) of the VAE, dim and blurred, and of the "
                               "model trained with β = 0, gaudy and without form", picture=True)

    # ---- Q2

    @cached_property
    def gradients(self) -> latent.Gradients:
        """Estimates of the reconstruction's gradient for the first test image, from 2,000 draws."""
        run, (mu, logvar) = self.demo["VAE"], self.codes["VAE"]
        model, x = copy.deepcopy(run.model).cpu(), as_pixels(self.images[:1])

        def cost(z: Tensor) -> Tensor:
            return reconstruction_error(run.recipe, model.decode(z), x.expand(len(z), -1, -1, -1))

        return latent.pathwise_and_score_gradients(cost, mu[0], logvar[0], 2_000,
                                                     self._draw("Q2"))

    @property
    def estimators(self) -> dict[str, Tensor]:
        """The three estimators' draws, (n, d) each."""
        draws = self.gradients
        return {"pathwise": draws.pathwise, "score function, baseline": draws.score_with_baseline,
                "score function": draws.score}

    def gradient_spread(self) -> Figure:
        """Running means of all three over more and more draws, where the gradient is largest."""
        self.gradient_table()                           # its numbers stand in the prose
        dim, run = self.gradients.pathwise.mean(0).abs().argmax(), self.demo["VAE"]
        found = {name: pca.running_means(g[:, dim]) for name, g in self.estimators.items()}
        last = {name: finite(error[-1]) or 1.0 for name, (_, error) in found.items()}
        for key, error in zip(("pathwise", "baseline", "score"), last.values(), strict=True):
            self.keep(f"q2.error_{key}", error, "nats per unit", run,
                      f"of a mean of {len(self.gradients.pathwise)} draws")
        known = self.keep("q2.gradient", found["pathwise"][0][-1], "nats per unit", run,
                          "largest component, pathwise, all draws")
        *near, far = found
        panels = {"Pathwise, and score function with baseline": {n: found[n] for n in near},
                  "Score function without: another scale": {far: found[far]}}
        reach = {title: 8 * last[max(inside, key=last.get)] for title, inside in panels.items()}
        return self.lab.figure(
            plot_running(panels, known or 0.0, reach), "q2-gradients",
            "Running means of three estimates of one gradient over 2,000 draws, with a band of one "
            "standard error: pathwise is narrow at once, the score function with a baseline "
            "narrows slowly, without one its axis is many times as long")

    def gradient_table(self) -> Table:
        """Variances, and how far the means of the same draws are from the pathwise ones."""
        pathwise, rows = self.gradients.pathwise, []
        for name, draws in self.estimators.items():
            gap, doubled = ((None, None) if draws is pathwise else
                            (apart(draws, pathwise), apart(2 * draws, pathwise)))
            rows.append({"estimator": name,
                         "variance, pathwise = 1": variance_ratio(pathwise, draws),
                         "means apart, standard errors": gap, "if its mean were doubled": doubled})
        for key, row in zip(("ratio_baseline", "ratio"), rows[1:], strict=True):
            self.keep(f"q2.{key}", row["variance, pathwise = 1"], "", self.demo["VAE"])
        self.keep("q2.apart", rows[1]["means apart, standard errors"], "standard errors",
                  self.demo["VAE"], "with the baseline")
        self.keep("q2.apart_doubled", rows[1]["if its mean were doubled"], "standard errors",
                  self.demo["VAE"], "with the baseline")
        return Table(rows, {"variance, pathwise = 1": ",.0f", "if its mean were doubled": ".1f",
                            "means apart, standard errors": ".1f"})

    def balance(self, n: int = 1_000) -> Table:
        """The reconstruction's mean gradients beside the KL's, which they balance at an optimum."""
        run, images = self.demo["VAE"], self.lab.cifar.train.images[:n]
        mu, logvar = encode_set(run.model, images)
        outward, against = pulls(run.model, images, mu, logvar, self._draw("balance"))
        known = {"slope": ("along μ", outward, mu.square().sum(1)),
                 "slope_sigma": ("along σ", against, (1 - logvar.exp()).sum(1))}
        rows = []
        for key, (name, pull, answer) in known.items():
            level, (_, error) = answer.mean().item(), pca.mean_and_error(pull - answer)
            ratio = pull.mean().item() / level
            self.keep(f"q2.{key}", ratio, "", run, f"{n} training images; known answer 1")
            self.keep(f"q2.{key}_error", error / abs(level), "", run)
            rows.append({"direction": name, "reconstruction, pathwise": pull.mean().item(),
                         "KL": level, "ratio": finite(ratio), "±": finite(error / abs(level))})
        return Table(rows, {"reconstruction, pathwise": ".1f", "KL": ".1f", "ratio": ".2f",
                            "±": ".2f"})

    # ---- Q3

    def noise(self) -> Table:
        """What the noise costs the reconstruction, beside half of β for each degree of freedom."""
        rows = []
        for label, key in (("VAE", "q3"), ("β = 0.1", "q3.sharp"), ("β = 0", "q3.beta0")):
            run, (mu, logvar) = self.demo[label], self.codes[label]
            draw = self._draw("noise", label)
            cost = noise_cost(run.model, self.images, mu, logvar, draw)
            mean, error = pca.mean_and_error(cost)
            freedom = latent.degrees_of_freedom(logvar)
            self.keep(f"{key}.noise", mean, "nats", run)
            self.keep(f"{key}.noise_known", run.recipe.beta / 2 * freedom, "nats", run,
                      "to second order")
            rows.append({"model": label, "β": run.recipe.beta, "degrees of freedom": freedom,
                         "noise costs": finite(mean), "±": finite(error),
                         "β/2 for each degree": run.recipe.beta / 2 * freedom})
        return Table(rows, {"β": "g", "degrees of freedom": ".1f", "noise costs": ".2f",
                            "±": ".2f", "β/2 for each degree": ".2f"})

    def curvature(self) -> Table:
        """Whether posterior variances are beta / (beta + H_jj), with H measured: the slope of their
        logarithms over dimensions, which is 1 where the law holds."""
        self.noise()                                    # its numbers stand in the prose
        rows, n = [], min(64, len(self.images) // 30)   # two decodings for each image and dimension
        for label, key in (("VAE", "q3"), ("β = 0.1", "q3.sharp")):
            run, (mu, logvar) = self.demo[label], (t[:n] for t in self.codes[label])
            measured = curvatures(run.model, self.images[:n], mu, logvar)
            law = curvature_law(measured, logvar, run.recipe.beta)
            slope = self.keep(f"{key}.law_slope", law.slope, "", run,
                              f"{n} test images; holds within {HOLDS} of 1")
            self.keep(f"{key}.law_error", law.error, "", run)
            self.keep(f"{key}.law_correlation", law.correlation, "", run)
            rows.append({"model": label, "β": run.recipe.beta, "images": len(mu), "slope": slope,
                         "±": finite(law.error), "correlation": finite(law.correlation),
                         "within 1.0 ± 0.1": None if slope is None else
                         "yes" if abs(slope - 1) <= HOLDS else "no"})
        return Table(rows, {"β": "g", "slope": ".3f", "±": ".3f", "correlation": ".3f"})

    @cached_property
    def spreads(self) -> dict[str, dict[str, Tensor]]:
        """By kind of noise and model, what makes noise of a model's own scale (d, d): the standard
        deviation of each dimension of its codes, or the square root of their covariance."""
        codes = {label: self.codes[label][0] for label in ("VAE", "autoencoder")}
        return {"each dimension by itself": {k: mu.std(0).diag() for k, mu in codes.items()},
                "as the codes vary together": {
                    k: density.symmetric_root(density.gaussian_fit(mu).covariance)
                    for k, mu in codes.items()}}

    def robust(self, n: int = 8) -> Figure:
        """Test images decoded from codes with more and more noise, by the VAE and autoencoder."""
        self.robustness()                               # its numbers stand in the prose
        images = as_pixels(self.images[:n])
        rows = {"original": torch.cat([images, images])}
        for scale in NOISES.values():
            left, right = (decode_set(self.demo[label].model, shaken(
                self.codes[label][0][:n], spread, scale, self._draw("robust")))
                for label, spread in self.spreads["each dimension by itself"].items())
            rows[f"s = {scale:g}"] = torch.cat([left, right])
        title = "Decoded from μ + s × noise of each dimension's own standard deviation over images"
        drawn = labelled_rows(rows, title, ("VAE", "autoencoder"), zoom=2, label=80, blocks=2)
        return self.lab.figure(
            drawn, "q3-robust", f"{n} test images decoded by the VAE, left, and the autoencoder, "
            "right, with more and more noise in the code: the VAE's stay smooth while they lose "
            "the image, the autoencoder's break up into speckle", picture=True)

    def robustness(self, n: int = 1_000) -> Table:
        """What noise of the codes' own scale does to the reconstruction of both models."""
        images, rows = self.images[:n], []
        floor = pca.entropy_floor(images)
        for (kind, spread), noise in zip(self.spreads.items(), ("", "shaped_"), strict=True):
            for word, scale in NOISES.items():
                above = [errors_at(self.demo[label].model, images, shaken(
                    self.codes[label][0][:n], root, scale, self._draw("robust"))) - floor
                    for label, root in spread.items()]
                for key, nats in zip(("vae", "ae"), above, strict=True):
                    self.keep(f"q3.robust_{noise}{key}_{word}", nats.mean(), "nats above the floor",
                              self.demo["VAE" if key == "vae" else "autoencoder"])
                gap, error = pca.mean_and_error(above[0] - above[1])
                rows.append({"noise": kind, "s": scale, "VAE": finite(above[0].mean()),
                             "autoencoder": finite(above[1].mean()),
                             "VAE less autoencoder": finite(gap), "±": finite(error)})
        return Table(rows, {"s": "g", "VAE": ",.0f", "autoencoder": ",.0f",
                            "VAE less autoencoder": "+,.0f", "±": ",.1f"})

    def two_sample(self) -> Table:
        """How well a classifier tells test images' codes from a density that one would sample."""
        rows = []
        for key, (codes, told_from, a, b) in (self._vae_codes() | self._ae_codes()).items():
            auc, error = two_sample_auc(a, b)
            run = self.demo["VAE" if key.startswith("vae") else "autoencoder"]
            self.keep(f"q3.auc_{key}", auc, "", run, "½ if codes and draws are of one density")
            self.keep(f"q3.auc_{key}_error", error, "", run)
            rows.append({"codes": codes, "dimensions": a.shape[1], "told from": told_from,
                         "AUC": auc, "±": error})
        return Table(rows, {"AUC": ".3f", "±": ".3f"})

    def _vae_codes(self) -> dict[str, tuple[str, str, Tensor, Tensor]]:
        """What is told from what: two names, codes and as many draws, also without the dimensions
        that are hardly used: those are noise, in which a difference of the others would drown."""
        draw, (mu, logvar) = self._draw("two samples"), self.codes["VAE"]
        used = latent.live(self.kl["VAE"], 0.1)
        train = encode_set(self.demo["VAE"].model, self.lab.cifar.train.images[:FITTED])
        n, z, prior = len(mu), draw_codes(mu, logvar, draw), torch.randn(mu.shape, generator=draw)
        fitted = density.aggregate_posterior(*train).sample(n, draw)
        means = density.gaussian_fit(train[0]).sample(n, draw)
        every, name = "VAE, z ~ q(z|x)", "VAE, above 0.1 nats"
        return {"vae": (every, PRIOR, z, prior), "vae_fitted": (every, FIT, z, fitted),
                "vae_used": (name, PRIOR, z[:, used], prior[:, used]),
                "vae_used_fitted": (name, FIT, z[:, used], fitted[:, used]),
                "vae_used_means": (f"{name}, μ without noise", FIT, mu[:, used], means[:, used])}

    def _ae_codes(self) -> dict[str, tuple[str, str, Tensor, Tensor]]:
        """The same for the autoencoder, and last two sets of draws of one density."""
        draw, codes = self._draw("two samples, autoencoder"), self.codes["autoencoder"][0]
        train = encode_set(self.demo["autoencoder"].model, self.lab.cifar.train.images[:FITTED])[0]
        n, fitted = len(codes), density.gaussian_fit(train)
        again = density.gaussian_fit(fitted.sample(len(train), draw))
        return {"ae": ("autoencoder", PRIOR, codes, torch.randn(codes.shape, generator=draw)),
                "ae_fitted": ("autoencoder", FIT, codes, fitted.sample(n, draw)),
                "null": ("draws from that Gaussian: ½ is right", "one fitted to other such draws",
                         fitted.sample(n, draw), again.sample(n, draw))}

    @cached_property
    def samples(self) -> dict[str, Tensor]:
        """As many samples as there are test images, by model and density."""
        n, seed = len(self.lab.cifar.test), self.lab.settings.seed
        model = {label: run.model for label, run in self.demo.items()}
        fitted = density.gaussian_fit(self.codes["autoencoder"][0])
        return {"VAE, N(0, I)": draw_images(model["VAE"], n, seed),
                "autoencoder, N(0, I)": draw_images(model["autoencoder"], n, seed),
                "autoencoder, fitted Gaussian": draw_images(model["autoencoder"], n, seed, fitted),
                "β = 0, N(0, I)": draw_images(model["β = 0"], n, seed)}

    def autoencoder(self) -> Figure:
        """Samples of the VAE and of the autoencoder, from the prior and from its own density."""
        self.sample_table()                             # its numbers stand in the prose
        panels = {name: tile(images[:24], 6) for name, images in list(self.samples.items())[:3]}
        return self.lab.figure(picture(panels, "The same layers, with and without noise in the "
                                       "code"), "q3-autoencoder",
                               "24 samples each of the VAE and of the autoencoder from N(0, I) and "
                               "from a Gaussian fitted to its codes", picture=True)

    @cached_property
    def measured(self) -> dict[str, dict]:
        """What the judge measures of the samples."""
        return {name: self.lab.judge.measure(images) for name, images in self.samples.items()}

    def sample_table(self) -> Table:
        """A Fréchet distance of the samples, the blur of real images that comes to as much, and
        texture; real images beside them."""
        judge, test = self.lab.judge, self.lab.cifar.test.images
        mean = self.scale.cifar.spectrum.mean.float().view(1, *test.shape[1:])

        def row(name: str, found: dict, images: Tensor) -> dict:
            return {"images": name, judge.name: found["distance"],
                    "equivalent blur, pixels": blur_shown(found), **texture(images)}

        rows = [row("half of the test images", judge.ends["real"], test[:len(test) // 2]),
                row("mean image", judge.ends["mean"], mean)]
        keys = {"vae": "VAE", "ae": "autoencoder", "ae_fitted": "autoencoder", "beta0": "β = 0"}
        for (key, label), (name, found) in zip(keys.items(), self.measured.items(), strict=True):
            rows.append(row(name, found, self.samples[name]))
            self.keep(f"q3.fd.{key}", found["distance"], "", self.demo[label], judge.name)
            self.keep(f"q3.blur_px.{key}", found["blur"], "pixels", self.demo[label],
                      "of real images of equal KID")
            self.keep(f"q3.texture.{key}", rows[-1]["neighbour correlation"], "", self.demo[label])
        self.keep("q3.fd.real", judge.floor, "", note=judge.name)
        self.keep("q3.texture.real", rows[0]["neighbour correlation"])
        self.keep("q3.judge_accuracy", judge.accuracy, "of the test labels")
        return Table(rows, {judge.name: ".3g", "equivalent blur, pixels": ".1f",
                            "neighbour correlation": ".2f", "sharpness, thousandths": ".2f"})

    # ---- Q4

    def map(self, n: int = 12, reach: float = 3.0) -> Figure:
        """The plane of the two dimensions of highest KL: decodings of a grid, the others at 0, and
        beside it where test images lie, in colours the three classes farthest out."""
        self.price(), self.averaging()                  # their numbers stand in the prose
        run, mu, kl = self.demo["VAE"], self.codes["VAE"][0], self.kl["VAE"].mean(0)
        across, up = dims = kl.argsort(descending=True)[:2].tolist()
        self.keep("q4.map_share", kl[dims].sum() / kl.sum(), "of the KL", run)
        steps, z = torch.linspace(-reach, reach, n), torch.zeros(n * n, mu.shape[1])
        z[:, across], z[:, up] = steps.repeat(n), steps.flip(0).repeat_interleave(n)
        points, names = mu[:, dims], self.lab.cifar.test.label_names
        labels = self.lab.cifar.test.labels[:len(mu)]
        centres = {k: points[labels == k].mean(0) for k in labels.unique().tolist()}
        out = sorted(centres, key=lambda k: -(centres[k] - points.mean(0)).norm().item())[:3]
        words = tuple(f"dimension {d}, {kl[d].item():.1f} nats" for d in dims)
        drawn = plot_map(tile(decode_set(run.model, z), n, zoom=1, gap=0), reach * n / (n - 1),
                         points, labels, {k: names[k] for k in out}, words)
        return self.lab.figure(
            drawn, "q4-map", f"Left: {n}×{n} decodings over the two dimensions of highest KL, a "
            "blob that changes evenly from dark to light against its ground. Right: one round "
            "cloud of test images' means; three classes in colours lie a little off its middle "
            "and overlap", picture=True)

    def price(self) -> Table:
        """What the weight of the KL does to the code, beside the linear prediction."""
        spectrum, rows = self.scale.cifar.spectrum, []
        for label, key in (("VAE", "q4"), ("β = 0.1", "q4.sharp"), ("β = 0", "q4.beta0")):
            run, kl = self.demo[label], self.kl[label]
            linear = None
            if run.recipe.sigma2:
                linear = pca.linear_optimum(spectrum, run.recipe.sigma2, kl.shape[1]).dof
                self.keep(f"{key}.dof_linear", linear, "", run)
            units = {t: latent.active_units(kl, t) for t in (0.01, 0.1)}
            self.keep(f"{key}.active", units[0.01], "dimensions", run, "above 0.01 nats")
            self.keep(f"{key}.active_tenth", units[0.1], "dimensions", run, "above 0.1 nats")
            near = density.median_nearest(self.distances[label])
            rows.append({"model": label, "KL": kl.sum(1).mean().item(),
                         "dimensions above 0.01 nats": units[0.01], "above 0.1": units[0.1],
                         "degrees of freedom": self.keep(
                             f"{key}.dof", latent.degrees_of_freedom(self.codes[label][1]), "",
                             run),
                         "linear prediction": linear,
                         "−ln overlap with the nearest": self.keep(
                             f"{key}.near", near, "nats", run, f"median of {len(kl)} test images")})
        return Table(rows, {"KL": ",.1f", "degrees of freedom": ".1f", "linear prediction": ".1f",
                            "−ln overlap with the nearest": ",.1f"})

    # ---- why the loss is summed

    def averaging(self) -> Table:
        """What averaging one term or both makes of the KL's weight, and of the code."""
        small, spectrum = self.demo["VAE"].recipe, self.scale.cifar.spectrum
        cases = {"both summed": "VAE", "no KL": "β = 0", "reconstruction averaged": "averaged",
                 "both averaged": small.pixels / small.latent, "KL averaged": 1 / small.latent}
        rows = [self._averaged(name, case) for name, case in cases.items()]
        for key, label in (("small", "VAE"), ("averaged", "averaged"), ("beta0", "β = 0")):
            self.keep(f"{key}.kl", self.kl[label].sum(1).mean(), "nats", self.demo[label])
        self.keep("averaged.sigma2", self.demo["averaged"].recipe.sigma2)
        self.keep("averaged.largest_eigenvalue", spectrum.eigenvalues[0])
        return Table(rows, {"weight of the KL": ",.4g", "σ²": ",.4g", "KL, nats": ",.1f",
                            "reconstruction above the floor": ".1f"})

    def _averaged(self, name: str, case: str | float) -> dict:
        """A row for a trained variant, or for a weight of the KL in closed form only."""
        run = self.demo.get(case)
        recipe = run.recipe if run else self.demo["VAE"].recipe.but(beta=case)
        best = recipe.sigma2 and pca.linear_optimum(self.scale.cifar.spectrum, recipe.sigma2,
                                                         recipe.latent)
        above = run and run.chosen["test_reconstruction"] - self.scale.cifar.test_floor
        return {"loss": name if run else f"{name}: closed form only",
                "weight of the KL": recipe.beta, "σ²": recipe.sigma2,
                "directions above σ²": best.active if best else None,
                "KL, nats": self.kl[case].sum(1).mean().item() if run else None,
                "units above 0.01 nats": latent.active_units(self.kl[case]) if run else None,
                "reconstruction above the floor": above}
