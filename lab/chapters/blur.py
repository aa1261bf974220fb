"""Blur is a chosen number: one network under four decoder variances, as probabilities and seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.chapters.scale import scale
from lab.density import (
    FullGaussian,
    bits,
    density_nats,
    full_gaussian,
    in_parts,
    kept_nats,
    learned_sigma2,
)
from lab.linear import Spectrum, linear_optimum, pca_scores
from lab.notebook import Lab, needs, once
from lab.samples import blur_shown, ssim
from lab.show import Figure, Table, labelled_rows
from lab.training import batch_of, decode_set, draw_images, draw_prior, generator, reconstruct
from vae_helpers import VAE, as_pixels, kl_divergence, to_pixels

# The trainings, by how findings call them, and their variances in words.
SWEEP = {"2": ("sigma-2", "σ² = ½"), "8": ("sigma-8", "σ² = ⅛"), "32": ("sigma-32", "σ² = 1/32"),
         "learned": ("sigma-learned", "σ² learned")}
TRAININGS = [name for name, _ in SWEEP.values()]
IMAGES = 2_000          # test images, and samples of each model
LATENT = 128            # dimensions of all these codes, and components of PCA beside them
DENSITY, KEPT = "bits, as a density", "bits, kept to [0, 1]"
SSIM, REBUILT = "SSIM of reconstructions", "their equivalent blur, pixels"
SAMPLED = "equivalent blur of samples, pixels"

# ---- a model as a distribution


@dataclass(frozen=True)
class Decoded:
    """Test images through a VAE with a Gaussian decoder: one draw from each posterior, decoded."""

    sigma2: float           # the decoder's variance, in squared pixels of [0, 1]
    x_hat: Tensor           # (N, 3, H, W), means of p(x|z), not confined to [0, 1]
    kl: Tensor              # (N, d)

    def nats(self, images: Tensor, given_x_hat: Callable) -> Tensor:
        """The negative ELBO of each image (N,), of the Gaussian's density (`density_nats`) or of
        its mass where it is cut off outside [0, 1] (`kept_nats`)."""
        given = in_parts(given_x_hat, images, self.x_hat, math.sqrt(self.sigma2))
        return given + self.kl.double().sum(1)


def sigma2_of(model: VAE) -> float:
    """The variance of a Gaussian decoder, given or learned."""
    if model.recipe.sigma is not None:
        return model.recipe.sigma ** 2
    return math.exp(2 * model.log_sigma.item())


@torch.no_grad()
def through(model: VAE, images: Tensor, seed: int, batch: int = 500) -> Decoded:
    """uint8 images through a model, with the draws of `lab.training.evaluate`."""
    device, parts = next(model.parameters()).device, []
    noise = generator(device, seed, "evaluation")
    for part in images.split(batch):
        eps = torch.randn(len(part), model.recipe.latent, generator=noise, device=device)
        logits, mu, logvar = model(batch_of(model.recipe, part, slice(None), device), eps)
        parts.append((to_pixels(model.recipe, logits), kl_divergence(mu, logvar)))
    return Decoded(sigma2_of(model), *(torch.cat(each).float().cpu()
                                       for each in zip(*parts, strict=True)))


def closed_nats(known: Spectrum, sigma2: float, latent: int) -> float:
    """-ELBO of the best linear VAE as a density, the mean over the images of the spectrum."""
    best = linear_optimum(known, sigma2, latent)
    normal = len(known.mean) / 2 * math.log(2 * math.pi * sigma2 * 255 ** 2)
    return best.loss(1 / (2 * sigma2)) + normal


def through_components(known: Spectrum, images: Tensor, n: int = LATENT) -> Tensor:
    """uint8 images with nothing but their first n principal components, in [0, 1]."""
    kept = known.mean.float() + pca_scores(known, images, n) @ known.components[:n].float()
    return kept.clamp(0, 1).view(images.shape)


@once
def whole_images(lab: Lab) -> FullGaussian:
    """The Gaussian with the training images' mean and covariance, without latent variables."""
    return full_gaussian(lab.cifar.train.images)


# ---- what cells show


@needs(*TRAININGS)
def sigmas(lab: Lab) -> Table:
    """What each decoder variance makes of the loss as a distribution of grey levels, in bits for
    each value of a test image; the linear optimum's are of training images."""
    images, known = lab.cifar.test.images[:IMAGES], scale(lab, "cifar").spectrum
    rows = {key: sigma_row(lab, key, images) for key in SWEEP}
    keep_distributions(lab, rows)
    values, best = images[0].numel(), learned_sigma2(known, LATENT)
    whole = bits(whole_images(lab).nats(images), values)[0]
    lab.found.keep("blur.full_covariance_bits", whole, "bits", note=f"{len(images):,} test images")
    others = [linear_row("σ² = ½", known, 0.5), linear_row("σ² the best", known, best),
              distribution("Gaussian with full covariance", density=whole),
              distribution("all grey levels alike", density=8.0, kept=8.0)]
    return Table([*rows.values(), *others], {"σ²": ".4f", "KL": ".0f", DENSITY: ".2f", KEPT: ".2f"})


def distribution(name: str, sigma2: float | None = None, kl: float | None = None,
                 density: float | None = None, kept: float | None = None) -> dict:
    return {"distribution": name, "σ²": sigma2, "KL": kl, DENSITY: density, KEPT: kept}


def sigma_row(lab: Lab, key: str, images: Tensor) -> dict:
    """A training as a distribution."""
    name, words = SWEEP[key]
    decoded = through(lab.run(name).model, images, lab.settings.seed)
    density, kept = (bits(decoded.nats(images, given), images[0].numel())[0]
                     for given in (density_nats, kept_nats))
    return distribution(f"VAE, {words}", decoded.sigma2, decoded.kl.double().sum(1).mean().item(),
                        density, kept)


def linear_row(words: str, known: Spectrum, sigma2: float) -> dict:
    """The best linear VAE as a distribution, of the images of its spectrum, as a density."""
    nats = closed_nats(known, sigma2, LATENT)
    return distribution(f"linear VAE, {words}", sigma2, linear_optimum(known, sigma2, LATENT).rate,
                        nats / (len(known.mean) * math.log(2)))


def keep_distributions(lab: Lab, rows: dict[str, dict]) -> None:
    """What the prose says of the largest variance and of the learned one."""
    half, learned = lab.run("sigma-2"), lab.run("sigma-learned")
    lab.found.keep("blur.kl_2", rows["2"]["KL"], "nats", half)
    lab.found.keep("blur.kl_learned", rows["learned"]["KL"], "nats", learned)
    lab.found.keep("blur.density_2", rows["2"][DENSITY], "bits", half)
    lab.found.keep("blur.cut_2", rows["2"][KEPT], "bits", half)
    lab.found.keep("blur.sigma2_learned", rows["learned"]["σ²"], "squared pixels", learned)


@needs(*TRAININGS)
def looks(lab: Lab) -> Table:
    """How like the originals reconstructions are, and how blurred they and samples are."""
    images, seed, n = lab.cifar.test.images[:IMAGES], lab.settings.seed, len(lab.cifar.test)
    rows = {}
    for key, (name, words) in SWEEP.items():
        model = lab.run(name).model
        rows[key] = looks_row(lab, f"VAE, {words}", reconstruct(model, images),
                              draw_images(model, min(IMAGES, n), seed))
    rows["ae"] = looks_row(lab, "autoencoder, the same layers",
                           reconstruct(lab.run("small-ae").model, images))
    rows["pca"] = looks_row(lab, f"{LATENT} principal components",
                            through_components(scale(lab, "cifar").spectrum, images))
    for key in ("2", "learned", "ae", "pca"):
        lab.found.keep(f"blur.px_kept_{key}", rows[key][REBUILT], "pixels")
    for key in ("2", "learned", "pca"):
        lab.found.keep(f"blur.ssim_{key}", rows[key][SSIM])
    for key in ("2", "learned"):
        lab.found.keep(f"blur.px_{key}", rows[key][SAMPLED], "pixels", lab.run(SWEEP[key][0]))
    return Table(list(rows.values()), {SSIM: ".3f", REBUILT: ".2f", SAMPLED: ".2f", "±": ".2f",
                                       "± of samples": ".2f"})


def looks_row(lab: Lab, name: str, rebuilt: Tensor, samples: Tensor | None = None) -> dict:
    """What is measured of reconstructions of the first test images, and of samples if there are."""
    found = lab.judge.measure(rebuilt)
    drawn = lab.judge.measure(samples) if samples is not None else None
    return {"images": name, SSIM: ssim(rebuilt, lab.cifar.test.images[:len(rebuilt)]).mean().item(),
            REBUILT: blur_shown(found), "±": found["blur_error"],
            SAMPLED: blur_shown(drawn) if drawn else None,
            "± of samples": drawn["blur_error"] if drawn else None}


@needs("sigma-2", "sigma-learned")
def pictures(lab: Lab) -> Figure:
    """Test images rebuilt by PCA and at the largest and the learned variance, samples of both, the
    same with the decoder's noise, and draws of the Gaussian over whole images."""
    images, seed = lab.cifar.test.images[:12], lab.settings.seed
    models = {words: lab.run(name).model for name, words in (SWEEP["2"], SWEEP["learned"])}
    z = draw_prior(len(images), LATENT, seed)
    samples = {words: decode_set(model, z) for words, model in models.items()}
    eps = torch.randn(images.shape, generator=generator("cpu", seed, "decoder noise"))
    rows = {"test images": as_pixels(images), f"{LATENT} principal\ncomponents":
            through_components(scale(lab, "cifar").spectrum, images)}
    rows |= {f"{words},\nreconstructed": reconstruct(model, images)
             for words, model in models.items()}
    rows |= {f"{words},\nsampled": samples[words] for words in models}
    rows |= {f"{words},\nwith its noise": samples[words] + sigma2_of(model) ** 0.5 * eps
             for words, model in models.items()}
    whole = whole_images(lab).sample(len(images), generator("cpu", seed, "full Gaussian"))
    rows["not a VAE: full\ncovariance"] = whole.clamp(0, 1).float().view(images.shape)
    return lab.figure(
        labelled_rows(rows, "Two decoder variances of one network, between PCA and a Gaussian "
                      "without latent variables", zoom=2, label=110), "blur",
        "Twelve test images; 128 principal components of them; reconstructions, blurred at "
        "variance ½ and sharper with the learned one; samples of both; the same with the decoder's "
        "own noise, nothing but noise at variance ½; and, from a Gaussian with full covariance, "
        "coloured clouds", picture=True)
