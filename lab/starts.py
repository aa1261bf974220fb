"""Where a training begins if not at random: at the best linear VAE, which PCA gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lab.measures import LinearVAE, Spectrum, linear_vae_parameters, spectrum
from lab.training import generator
from vae_helpers import VAE, Recipe


def spectrum_of(recipe: Recipe, images: Tensor) -> Spectrum:
    """The spectrum that the recipe starts from: of all images, or of some of them."""
    if 0 < recipe.start_images < len(images):
        order = torch.randperm(len(images), generator=generator("cpu", "spectrum"))
        images = images[order[:recipe.start_images]]
    return spectrum(images, top=recipe.latent)


@torch.no_grad()
def start(model: VAE, known: Spectrum) -> None:
    """Puts the best linear VAE into the model; a recipe with a random start stays as it is.

    The closed form is for squared error. The decoder works on logits, so its columns are divided by
    the link's slope at the mean image, x(1 - x), which makes it right for small z.
    """
    recipe = model.recipe
    if recipe.start == "random":
        return
    best = linear_vae_parameters(known, recipe.start_sigma2, recipe.latent)
    mean = best.mean.clamp(1 / 510, 1 - 1 / 510)    # (D,), half a grey level from 0 and 1
    decoder = recipe.start_gain * best.decoder / (mean * (1 - mean))[:, None]
    put = put_beside if recipe.start == "linear" else put_into_weights
    put(model, best, decoder, torch.logit(mean))
    model.to_logvar.weight.zero_()
    model.to_logvar.bias.copy_(best.variance.log())


def put_beside(model: VAE, best: LinearVAE, decoder: Tensor, bias: Tensor) -> None:
    """Sets the linear path, and what the network adds to it to 0."""
    model.linear_in.weight.copy_(best.encoder)
    model.linear_out.weight.copy_(decoder)
    model.linear_out.bias.copy_(bias)
    layers = [m for m in model.decoder.modules() if isinstance(m, (nn.Linear, nn.ConvTranspose2d))]
    for layer, shift in ((model.to_mu, -best.encoder @ best.mean), (layers[-1], torch.zeros(()))):
        layer.weight.zero_()
        layer.bias.copy_(shift)


def put_into_weights(model: VAE, best: LinearVAE, decoder: Tensor, bias: Tensor) -> None:
    """Writes the linear VAE into the dense layers themselves."""
    live = decoder.any(0)                                       # (d,), the directions it keeps
    both = [[m for m in part.modules() if isinstance(m, nn.Linear)]
            for part in (model.encoder, model.decoder)]
    inwards, eye = best.encoder[live], torch.eye(len(live), dtype=decoder.dtype)[live]  # (k, ·)
    write_product([*both[0], model.to_mu], eye.T, inwards, -inwards @ best.mean, torch.zeros(()))
    write_product(both[1], decoder[:, live], eye, 0 * eye[:, 0], bias)


def write_product(layers: Sequence[nn.Linear], left: Tensor, right: Tensor, inner: Tensor,
                  outer: Tensor) -> None:
    """Makes dense layers with a ReLU between them compute left (right x + inner) + outer.

    A ReLU passes a number on as a pair, relu(h) and relu(-h), whose difference it is: k numbers
    take 2k units of each hidden layer. The other units keep the weights that they have, and what
    follows does not listen to them.
    """
    *hidden, last = layers
    if not hidden:
        last.weight.copy_(left @ right)
        last.bias.copy_(left @ inner + outer)
        return
    k, (first, *middle) = len(right), hidden
    narrowest = min(layer.out_features for layer in hidden)
    if 2 * k > narrowest:
        raise ValueError(f"{k} directions need {2 * k} units, and a layer has {narrowest}")
    first.weight[:2 * k].copy_(torch.cat([right, -right]))
    first.bias[:2 * k].copy_(torch.cat([inner, -inner]))
    pair = torch.eye(k, dtype=right.dtype)
    for layer in middle:
        layer.weight[:2 * k].zero_()
        layer.weight[:2 * k, :2 * k].copy_(torch.cat([torch.cat([pair, -pair], 1),
                                                      torch.cat([-pair, pair], 1)]))
        layer.bias[:2 * k].zero_()
    last.weight.zero_()
    last.weight[:, :2 * k].copy_(torch.cat([left, -left], 1))
    last.bias.copy_(outer)
