"""The layers of a recipe, and the matrix products of a training step: their shapes and numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from lab.layers import products_pay
from vae_helpers import VAE, Recipe

KINDS = {nn.Conv2d: "down", nn.ConvTranspose2d: "up", nn.Linear: "dense"}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Layer(NamedTuple):
    """A dense layer, or a 4x4 convolution of stride 2."""

    kind: str       # "down", "up" or "dense"
    inputs: int     # channels or units
    outputs: int
    side: int       # of the larger map; 0 for a dense layer
    first: bool     # it reads the image, whose gradient nobody needs

    def dtype(self, precision: str) -> torch.dtype:
        """What its input is in: the image is not rounded before the first layer does it."""
        return torch.float32 if self.first else DTYPES[precision]

    def by_products(self, precision: str) -> bool:
        """Whether `fast()` leads it to the products of lab/layers.py on a CPU."""
        channels = self.inputs if self.kind == "down" else self.outputs
        probe = torch.empty(0, dtype=self.dtype(precision))
        return self.kind != "dense" and products_pay(probe, (self.side, self.side), channels)


def layers_of(recipe: Recipe) -> list[Layer]:
    """All layers that multiply, in the order of the forward pass; nothing is computed."""
    found = []

    def keep(layer, given, made):
        side = max(given[0].shape[-1], made.shape[-1]) if made.dim() == 4 else 0
        found.append(Layer(KINDS[type(layer)], given[0].shape[1], made.shape[1], side,
                           not given[0].requires_grad))

    run_on_nothing(recipe, tuple(KINDS), keep)
    return found


def activation_bytes(recipe: Recipe) -> int:
    """What a batch's layers put out in fp32, all of it kept for the backward pass."""
    sizes = []
    run_on_nothing(recipe, (nn.Module,), lambda _, given, made: sizes.append(made[0].numel()))
    return 4 * recipe.batch * sum(sizes)


def run_on_nothing(recipe: Recipe, kinds: tuple[type, ...], hook) -> None:
    """Calls hook(module, inputs, output) for the parts of these kinds that have no parts."""
    with torch.device("meta"):
        model = VAE(recipe)
        for part in model.modules():
            if isinstance(part, kinds) and not list(part.children()):
                part.register_forward_hook(hook)
        model(torch.empty(2, 3, recipe.side, recipe.side), torch.empty(2, recipe.latent))


def forward_product(layer: Layer, batch: int, precision: str) -> tuple[int, int, int, int]:
    """n, M, K, N of the layer's forward pass: n products of (M, K) and (K, N).

    A convolution of the library's counts as the product that it is once its input is unfolded.
    """
    _, inputs, outputs, side, _ = layer
    if layer.kind == "dense":
        return 1, batch, inputs, outputs
    nine = layer.by_products(precision)
    n, rows, block = (9, batch * (side // 4) ** 2, 4) if nine else (1, batch * (side // 2) ** 2, 16)
    return (n, rows, *((block * inputs, outputs) if layer.kind == "down" else
                       (inputs, block * outputs)))


def step_products(recipe: Recipe, precision: str) -> list[tuple[int, int, int, int]]:
    """n, M, K, N of all products of a training step: forward, weights' and inputs' gradients."""
    products = []
    for layer in layers_of(recipe):
        n, M, K, N = forward_product(layer, recipe.batch, precision)
        products += [(n, M, K, N), (n, K, M, N)] + [(n, M, N, K)] * (not layer.first)
    return products


def multiplications(recipe: Recipe, precision: str) -> int:
    """Multiplications of a training step that are left per image, forward and backward."""
    return sum(n * M * K * N for n, M, K, N in step_products(recipe, precision)) // recipe.batch
