"""The decoders that run in the exported page, and the text in which it holds them.

The file of weights holds two decoders of the same codes at 8 bits: the network's, and the best
linear VAE's, turned to where its codes are nearest to the network's. `offline/player.js` draws
their pictures.
"""

import base64
import json
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.linear import linear_vae_parameters, spectrum, turn_towards
from lab.training import encode_set
from vae_helpers import VAE

SLIDERS = 8
NETWORK, LINEAR = "model.decoder.", "linear."       # what the names of their weights begin with


def linear_weights(model: VAE, images: Tensor) -> dict[str, Tensor]:
    """The weights of the best linear decoder of a model's training images, for the same codes."""
    recipe, (mu, _) = model.recipe, encode_set(model, images)
    best = linear_vae_parameters(spectrum(images, recipe.latent), recipe.sigma2, recipe.latent)
    turn = turn_towards(best, mu, images)                                               # (k, d)
    weights = {"0.weight": turn, "0.bias": torch.zeros(len(turn)),
               "1.weight": best.decoder[:, :len(turn)], "1.bias": best.mean}
    return {LINEAR + name: values.float() for name, values in weights.items()}


@torch.no_grad()
def pictures(model: VAE, linear: Mapping[str, Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures (N, 3, H, W) that the page shows of codes z (N, d): the network's, and the best
    linear model's, by its weights as floats."""
    layer = [(linear[f"{LINEAR}{i}.weight"], linear[f"{LINEAR}{i}.bias"]) for i in (0, 1)]
    of_network = torch.sigmoid(model.decoder(z))
    of_linear = F.linear(F.linear(z, *layer[0]), *layer[1]).clamp(0, 1)
    return of_network, of_linear.view_as(of_network)


def text(parts: Mapping[str, Tensor]) -> str:
    """What the script reads of a file's arrays: the dimensions that cost most, their nats, and
    both decoders."""
    dims = parts["kl"].topk(SLIDERS).indices.tolist()
    return json.dumps({
        "dims": dims, "nats": [round(parts["kl"][dim].item(), 1) for dim in dims],
        "decoder": layers(parts, NETWORK, ("", "relu", "relu", "sigmoid")),
        "linear": layers(parts, LINEAR, ("", "clip"))})


def layers(parts: Mapping[str, Tensor], which: str, bends: Sequence[str]) -> list[dict]:
    """A decoder's layers in their order, each with what bends its output: bytes and little-endian
    floats as base64."""
    names = sorted(name for name in parts if name.startswith(which) and name.endswith(".weight"))
    return [{"shape": list(parts[name].shape), "weight": in_letters(parts[name], "i1"),
             "scale": in_letters(parts[f"{name}.scale"], "<f4"),
             "bias": in_letters(parts[name.replace(".weight", ".bias")], "<f4"), "bend": bend}
            for name, bend in zip(names, bends, strict=True)]


def in_letters(values: Tensor, kind: str) -> str:
    return base64.b64encode(values.numpy().astype(kind).tobytes()).decode()
