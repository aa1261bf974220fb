"""What is shipped of a finished run: its weights in few bits, and what a picture needs of its data.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import data
from data import ImageSet, Splits
from lab.density import aggregate_posterior
from lab.files import Refused
from lab.linear import Spectrum, linear_model, spectrum
from lab.notebook import Lab
from lab.player import linear_weights
from lab.runs import Run
from lab.shipped import (
    WEIGHTS,
    at_8_bits,
    at_16_bits,
    eight_bits,
    unpacked,
    write_shipped,
)
from lab.training import draw_images, encode_set, evaluate
from vae_helpers import VAE, as_pixels, kl_divergence

NAMES = ("improved", "faces", "celeba32")   # the last one's decoder alone, for the exported page
DEAREST = 0.05      # nats: what rounding may cost, and more is said
TOP = 384           # eigenvalues that are kept
CODED = 20_000      # training images whose codes the Gaussians of the classes are fitted to


def ship(lab: Lab, name: str, folder: Path = WEIGHTS) -> str:
    """Writes the weights of a recipe's finished run; one sentence on what rounding them cost."""
    job, path = lab.job(name), folder / f"{name}.npz"
    if not job.splits.test.real:
        raise Refused(f"{name} is shipped as trained on real images, and these are drawn: say by "
                      "--data-root where the dataset lies")
    if not job.finished:
        return f"{name}: {job.folder} holds no finished run, so {path} stays as it is"
    parts, about = kept_of(job.train(), job.splits, decoder_alone=name == "celeba32")
    write_shipped(path, parts, about)
    cost = about["loss"]["test"] - about["unrounded"]
    verdict = "within" if abs(cost) <= DEAREST else "MORE THAN"
    return (f"{path}: run {about['run']}, {path.stat().st_size / 1e6:.2f} MB; test loss "
            f"{about['unrounded']:.3f}, at {about['bits']} bits {about['loss']['test']:.3f}: "
            f"{cost:+.3f} nats, {verdict} the {DEAREST} that they may cost")


def kept_of(run: Run, splits: Splits, decoder_alone: bool) -> tuple[dict[str, Tensor], dict]:
    """The arrays of a file of weights, and what its text says; lab/shipped.py lists both."""
    recipe, test = run.recipe, splits.test
    alone = {f"decoder.{name}": value for name, value in run.model.decoder.state_dict().items()}
    weights = at_8_bits(alone) if decoder_alone else at_16_bits(run.model)
    rounded = copy.deepcopy(run.model)
    rounded.load_state_dict(unpacked(weights), strict=not decoder_alone)
    standin = data.load(recipe.data, "test", recipe.side, source="standin")
    known = spectrum(splits.train.images, TOP)
    about = {"identity": run.identity, "run": run.hash, "bits": 8 if decoder_alone else 16,
             "unrounded": mean_loss(run.model, test),
             "loss": {"test": mean_loss(rounded, test), "standin": mean_loss(rounded, standin)},
             "draws": draw_images(rounded, 64).mean().item(), "variance": known.total}
    parts = {f"model.{name}": part for name, part in weights.items()}
    parts["kl"] = mean_kl(rounded, test.images)
    if decoder_alone:
        parts |= at_8_bits(linear_weights(run.model, splits.train.images))
    else:
        pca = linear_model(recipe, known)
        parts |= linear_parts(known, recipe.latent) | {"losses": quantiles(rounded, test.images),
                  "losses_pca": quantiles(pca, test.images)}
    if splits.train.labels.dim() == 1:
        about["classes"] = splits.train.label_names
        parts |= class_gaussians(rounded, splits.train.take(CODED))
    return parts, about


def mean_loss(model: VAE, images: ImageSet) -> float:
    """The loss on a set, in nats per image."""
    return evaluate(model, images.images).loss(model.recipe.beta).double().mean().item()


def linear_parts(known: Spectrum, latent: int) -> dict[str, Tensor]:
    """Mean, eigenvalues, and the first directions at 8 bits."""
    q, scale = eight_bits(known.components[:latent], axis=0)
    return {"mean": known.mean.half(), "eigenvalues": known.eigenvalues.float(),
            "directions": q, "directions.scale": scale}


def mean_kl(model: VAE, images: Tensor) -> Tensor:
    """The mean nats (d,) of every latent dimension."""
    return kl_divergence(*encode_set(model, images)).mean(0)


def floors(images: Tensor) -> Tensor:
    """The least cross-entropy (N,) that any x_hat can reach on each image: that of x itself."""
    x = as_pixels(images)
    return F.binary_cross_entropy(x, x, reduction="none").flatten(1).sum(1)


def quantiles(model: VAE, images: Tensor) -> Tensor:
    """The losses of images above their own floors: their 0, 1, ..., 100 % quantiles (101,)."""
    losses = evaluate(model, images).loss(model.recipe.beta)
    above = losses - torch.cat([floors(part) for part in images.split(500)])
    return above.quantile(torch.linspace(0, 1, 101))


def class_gaussians(model: VAE, train: ImageSet) -> dict[str, Tensor]:
    """Mean (classes, d) and triangular root (classes, d, d) of the codes of each class."""
    mu, logvar = encode_set(model, train.images)
    fits = [aggregate_posterior(mu[train.labels == i], logvar[train.labels == i])
            for i in range(len(train.label_names))]
    return {"class_mean": torch.stack([fit.mean for fit in fits]).half(),
            "class_root": torch.stack([torch.linalg.cholesky(fit.covariance)
                                       for fit in fits]).half()}
