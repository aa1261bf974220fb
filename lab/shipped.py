"""Weights in the repository, for whoever has neither the data nor the hours: made, kept and read.

data/weights/NAME.npz holds plain arrays, which are read without unpickling anything:

    about           a JSON text: the run's identity (recipe, epochs, seed, fingerprint of the data)
                    and hash, what rounding its weights cost, the loss that they must give, ...
    digest          of everything else
    model.KEY       the model's state at 16 bits; or of a decoder alone at 8 bits, biases at 16
    mean            the training images' mean, (3 * side * side,)
    directions      the rows onto which PCA projects, (latent, 3 * side * side), at 8 bits
    eigenvalues     of the pixels' covariance, the 384 largest
    kl              the mean nats of every latent dimension on the test images
    losses, losses_pca      101 quantiles of the test images' losses above their own floors
    class_mean, class_root  a Gaussian of the codes for each class: mean + root @ eps
    linear.KEY      of a decoder alone: the best linear VAE of the same codes, for the exported page

An array X at 8 bits is int8 and stands beside X.scale, whose shape makes X * X.scale its values.
"""

import copy
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import data
from data import ImageSet, Splits
from lab.density import aggregate_posterior
from lab.files import Damaged, Refused, digest_of, write_atomically
from lab.linear import Spectrum, linear_model, spectrum
from lab.notebook import Lab
from lab.player import linear_weights
from lab.recipes import RECIPES
from lab.runs import Run, recipe_of
from lab.training import draw_images, encode_set, evaluate, fresh
from vae_helpers import VAE, Recipe, as_pixels, kl_divergence

WEIGHTS = Path(__file__).parents[1] / "data" / "weights"
AGAIN = "check it out again, or write it anew by `python -m lab ship`"
NAMES = ("improved", "faces", "celeba32")   # the last one's decoder alone, for the exported page
DEAREST = 0.05      # nats: what rounding may cost, and more is said
TOP = 384           # eigenvalues that are kept
CODED = 20_000      # training images whose codes the Gaussians of the classes are fitted to

# ---- numbers of few bits


def eight_bits(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Values as int8 and the scale that gives them back, one for each index of an axis.

    The largest of them becomes 127 or -127, and 0 stays 0.
    """
    others = [i for i in range(values.dim()) if i != axis]
    scale = values.abs().amax(others, keepdim=True).clamp(min=1e-30) / 127
    return (values / scale).round().to(torch.int8), scale.float()


def at_8_bits(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by their names as int8 beside NAME.scale, biases as float16.

    Every output channel has a scale of its own. That is the first axis of a dense layer's weights,
    (out, in), and the second of a transposed convolution's, (in, out, 4, 4).
    """
    kept = {}
    for name, values in weights.items():
        if values.dim() == 1:
            kept[name] = values.detach().half()
        else:
            kept[name], kept[f"{name}.scale"] = eight_bits(values.detach(), values.dim() // 4)
    return kept


def unpacked(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parts by their names as float32, those at 8 bits multiplied by their scales."""
    return {name: part.float() * parts.get(f"{name}.scale", 1)
            for name, part in parts.items() if not name.endswith(".scale")}


# ---- a shipped model


@dataclass(frozen=True)
class Shipped:
    """What a file of weights holds."""

    recipe: Recipe
    model: VAE                  # on the CPU; without an encoder, where the decoder alone is kept
    about: dict                 # the JSON text
    arrays: dict[str, Tensor]   # all that is no weight, as float32

    @property
    def spectrum(self) -> Spectrum:
        """Mean, eigenvalues and the first directions of the images that it was trained on."""
        a = self.arrays
        return Spectrum(a["eigenvalues"].double(), a["directions"].double(), a["mean"].double(),
                        self.about["variance"])


def model_of(recipe: Recipe, weights: dict[str, Tensor]) -> VAE:
    """The model with these weights; its encoder is taken away where they are a decoder's."""
    model, alone = fresh(recipe, torch.device("cpu")), "to_mu.weight" not in weights
    model.load_state_dict(weights, strict=not alone)
    if alone:
        model.encoder = model.to_mu = model.to_logvar = None
    return model.eval()


def write_shipped(path: Path, parts: dict[str, Tensor], about: dict) -> None:
    """Writes weights, named model.KEY, and what else is kept of a run."""
    text, file = json.dumps(about), io.BytesIO()
    arrays = {name: part.contiguous().numpy() for name, part in parts.items()}
    np.savez_compressed(file, about=text, digest=digest_of([text, sorted(parts.items())]), **arrays)
    write_atomically(path, file.getbuffer())


def read_shipped(name: str, folder: Path = WEIGHTS) -> Shipped:
    """What is shipped under a recipe's name, once it is whole and of today's recipe."""
    path = folder / f"{name}.npz"
    about, parts = opened(path)
    recipe = recipe_of(about["identity"])
    if recipe != RECIPES[name].but(epochs=recipe.epochs):
        raise Damaged(path, f"holds weights of another recipe than {name} ({recipe.name})", AGAIN)
    whole = unpacked(parts)
    weights = {key.removeprefix("model."): part for key, part in whole.items()
               if key.startswith("model.")}
    arrays = {key: part for key, part in whole.items() if not key.startswith("model.")}
    return Shipped(recipe, model_of(recipe, weights), about, arrays)


def opened(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """The JSON text and the arrays of a file whose digest is right; nothing is executed."""
    if not path.exists():
        raise Damaged(path, "is missing", AGAIN)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text, digest = str(arrays.pop("about")), str(arrays.pop("digest"))
        parts = {name: torch.from_numpy(array) for name, array in arrays.items()}
    except Exception as error:                          # a broken archive may raise anything
        raise Damaged(path, f"is damaged, or no file of plain arrays ({type(error).__name__})",
                      AGAIN) from error
    if digest != digest_of([text, sorted(parts.items())]):
        raise Damaged(path, "is damaged (its content has another digest)", AGAIN)
    return json.loads(text), parts


# ---- what is made of a finished run


def ship(lab: Lab, name: str) -> str:
    """Writes the weights of a recipe's finished run; one sentence on what rounding them cost."""
    job, path = lab.job(name), WEIGHTS / f"{name}.npz"
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
    """The arrays of a file of weights, and what its text says; the head of this file lists both."""
    recipe, test = run.recipe, splits.test
    alone = {f"decoder.{name}": value for name, value in run.model.decoder.state_dict().items()}
    weights = at_8_bits(alone) if decoder_alone else {
        name: value.half() for name, value in run.model.state_dict().items()}
    rounded = copy.deepcopy(run.model)
    rounded.load_state_dict(unpacked(weights), strict=not decoder_alone)
    standin = data.load(recipe.data, "test", recipe.side, source="standin")
    known = spectrum(splits.train.images, TOP)
    about = {"identity": run.identity, "run": run.hash, "bits": 8 if decoder_alone else 16,
             "unrounded": mean_loss(run.model, test),
             "loss": {"test": mean_loss(rounded, test), "standin": mean_loss(rounded, standin)},
             "draws": draw_images(rounded, 64).mean().item(), "variance": known.total}
    parts = {f"model.{name}": part for name, part in weights.items()}
    parts["kl"] = kl_divergence(*encode_set(rounded, test.images)).mean(0)
    if decoder_alone:
        parts |= at_8_bits(linear_weights(run.model, splits.train.images))
    else:
        parts |= {"mean": known.mean.half(), "eigenvalues": known.eigenvalues.float(),
                  **at_8_bits({"directions": known.components[:recipe.latent]}),
                  "losses": quantiles(rounded, test.images),
                  "losses_pca": quantiles(linear_model(recipe, known), test.images)}
    if splits.train.labels.dim() == 1:
        about["classes"] = splits.train.label_names
        parts |= class_gaussians(rounded, splits.train.take(CODED))
    return parts, about


def mean_loss(model: VAE, images: ImageSet) -> float:
    """The loss on a set, in nats per image."""
    return evaluate(model, images.images).loss(model.recipe.beta).double().mean().item()


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
