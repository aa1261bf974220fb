"""Blur is a chosen number: one network under four decoder variances, as probabilities and seen."""

import math

import torch
from torch import Tensor

from lab import density
from lab.chapters.scale import scale
from lab.latent import logits_at
from lab.linear import Spectrum, linear_optimum, pca_scores
from lab.notebook import Lab, needs, once
from lab.samples import blur_shown, ssim
from lab.show import Figure, Table, labelled_rows
from lab.training import (
    decode_set,
    draw_codes,
    draw_images,
    draw_prior,
    encode_set,
    generator,
    reconstruct,
)
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


def sigma2_of(model: VAE) -> float:
    """The variance of a Gaussian decoder, given or learned."""
    if model.recipe.sigma is not None:
        return model.recipe.sigma ** 2
    return math.exp(2 * model.log_sigma.item())


def nats_of(model: VAE, images: Tensor, seed: int) -> dict[str, Tensor]:
    """The negative ELBO of uint8 images (N,), with the draws of `lab.training.evaluate`: of the
    Gaussian's density, and of its mass where it is cut off outside [0, 1]; and its KL."""
    mu, logvar = encode_set(model, images)
    z = draw_codes(mu, logvar, generator("cpu", seed, "evaluation"))
    x_hat, sigma = to_pixels(model.recipe, logits_at(model, z)), math.sqrt(sigma2_of(model))
    kl = kl_divergence(mu, logvar).double().sum(1)
    given = {DENSITY: density.density_nats, KEPT: density.kept_nats}
    return {"KL": kl} | {name: density.in_parts(nats, images, x_hat, sigma) + kl
                         for name, nats in given.items()}


def through_components(known: Spectrum, images: Tensor, n: int = LATENT) -> Tensor:
    """uint8 images with nothing but their first n principal components, in [0, 1]."""
    kept = known.mean.float() + pca_scores(known, images, n) @ known.components[:n].float()
    return kept.clamp(0, 1).view(images.shape)


@once
def whole_images(lab: Lab) -> density.FullGaussian:
    """The Gaussian with the training images' mean and covariance, without latent variables."""
    return density.full_gaussian(lab.cifar.train.images)


# ---- what cells show


@needs(*TRAININGS)
def sigmas(lab: Lab) -> Table:
    """What each decoder variance makes of the loss as a distribution of grey levels, in bits for
    each value of a test image, and how like the originals reconstructions are and how blurred they
    and samples. The linear models' bits are of training images."""
    images, known = lab.cifar.test.images[:IMAGES], scale(lab, "cifar").spectrum
    vaes = {key: vae_row(lab, key, images) for key in SWEEP}
    whole = density.bits(whole_images(lab).nats(images), images[0].numel())[0]
    components = {"distribution": f"{LATENT} principal components"} | rebuilt(
        lab, through_components(known, images))
    keep_rows(lab, vaes, components, whole)
    rows = [*vaes.values(), linear_row("σ² = ½", known, 0.5),
            linear_row("σ² the best", known, density.learned_sigma2(known, LATENT)), components,
            {"distribution": "autoencoder, the same layers"}
            | rebuilt(lab, reconstruct(lab.run("small-ae").model, images)),
            {"distribution": "Gaussian with full covariance", DENSITY: whole},
            {"distribution": "all grey levels alike", DENSITY: 8.0, KEPT: 8.0}]
    formats = {"distribution": "", "σ²": ".4f", "KL": ".0f", DENSITY: ".2f", KEPT: ".2f",
               SSIM: ".3f", REBUILT: ".2f", SAMPLED: ".2f"}
    return Table([{head: row.get(head) for head in formats} for row in rows], formats)


def vae_row(lab: Lab, key: str, images: Tensor) -> dict:
    """A training as a distribution, and what its reconstructions and samples look like."""
    (name, words), values = SWEEP[key], images[0].numel()
    model = lab.run(name).model
    nats = nats_of(model, images, lab.settings.seed)
    samples = draw_images(model, min(IMAGES, len(lab.cifar.test)), lab.settings.seed)
    return {"distribution": f"VAE, {words}", "σ²": sigma2_of(model), "KL": nats["KL"].mean().item(),
            **{kind: density.bits(nats[kind], values)[0] for kind in (DENSITY, KEPT)},
            **rebuilt(lab, reconstruct(model, images)),
            SAMPLED: blur_shown(lab.judge.measure(samples))}


def linear_row(words: str, known: Spectrum, sigma2: float) -> dict:
    """The best linear VAE as a distribution, of the images of its spectrum, as a density."""
    bits = density.closed_nats(known, sigma2, LATENT) / (len(known.mean) * math.log(2))
    return {"distribution": f"linear VAE, {words}", "σ²": sigma2, DENSITY: bits,
            "KL": linear_optimum(known, sigma2, LATENT).rate}


def rebuilt(lab: Lab, images: Tensor) -> dict:
    """How like the first test images these reconstructions of them are, and how blurred."""
    originals = lab.cifar.test.images[:len(images)]
    return {SSIM: ssim(images, originals).mean().item(),
            REBUILT: blur_shown(lab.judge.measure(images))}


def keep_rows(lab: Lab, vaes: dict[str, dict], components: dict, whole: float) -> None:
    """Keeps what text and claims quote of the table."""
    keep, half, learned = lab.found.keep, vaes["2"], vaes["learned"]
    keep("blur.density_2", half[DENSITY], "bits", lab.run("sigma-2"))
    keep("blur.sigma2_learned", learned["σ²"], "squared pixels", lab.run("sigma-learned"))
    keep("blur.full_covariance_bits", whole, "bits")
    keep("blur.px_kept_pca", components[REBUILT], "pixels")
    for key, row in {"2": half, "learned": learned}.items():
        run = lab.run(SWEEP[key][0])
        keep(f"blur.kl_{key}", row["KL"], "nats", run)
        keep(f"blur.px_kept_{key}", row[REBUILT], "pixels", run)
        keep(f"blur.px_{key}", row[SAMPLED], "pixels", run)


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
