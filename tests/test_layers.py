"""Convolutions as products are the library's convolutions: values, gradients, adjoints and where they are used."""

import pytest
import torch
from torch import nn

import vae_layers as layers


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def products(monkeypatch):
    """Counts how often the nine products are used, so that no test compares the library with itself."""
    calls = []
    original = layers._kernels
    monkeypatch.setattr(layers, "_kernels", lambda w: (calls.append(tuple(w.shape)), original(w))[1])
    return calls


def pair(kind, channels, out):
    """A layer of ours and the library's, with equal weights, in float64."""
    ours, library = {"down": (layers.Down, nn.Conv2d), "up": (layers.Up, nn.ConvTranspose2d)}[kind]
    torch.manual_seed(0)
    ours, theirs = ours(channels, out).double(), library(channels, out, 4, stride=2, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def outputs_and_gradients(layer, x, seed=9):
    x = x.clone().requires_grad_()
    y = layer(x)
    torch.sum(y * random(*y.shape, seed=seed)).backward()
    return y, x.grad, layer.weight.grad, layer.bias.grad


# (kind, batch, channels in, channels out, height, width) of maps for which the products are used
USED = [("down", 2, 16, 5, 4, 4), ("down", 3, 32, 16, 8, 8), ("down", 1, 128, 3, 16, 16), ("down", 2, 16, 7, 8, 4),
        ("up", 2, 5, 16, 2, 2), ("up", 3, 32, 16, 4, 4), ("up", 1, 3, 128, 8, 8), ("up", 2, 7, 16, 4, 2)]
# and for which they are not: few channels for the map, a large map, one that cannot be cut into blocks of two
UNUSED = [("down", 2, 3, 16, 8, 8), ("down", 1, 16, 8, 16, 16), ("down", 1, 128, 8, 32, 32),
          ("down", 2, 16, 8, 6, 6), ("down", 2, 16, 8, 2, 2),
          ("up", 2, 16, 3, 4, 4), ("up", 1, 8, 16, 8, 8), ("up", 1, 8, 128, 16, 16),
          ("up", 2, 8, 16, 3, 3), ("up", 2, 8, 16, 1, 1)]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", USED + UNUSED, ids=lambda c: "-".join(map(str, c)))
def test_layer_equals_the_librarys_with_all_gradients(products, case, memory):
    kind, batch, channels, out, height, width = case
    ours, theirs = pair(kind, channels, out)
    ours = ours.to(memory_format=memory)
    x = random(batch, channels, height, width).to(memory_format=memory)
    for mine, other in zip(outputs_and_gradients(ours, x), outputs_and_gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)
    assert len(products) == (case in USED)


@pytest.mark.parametrize("kind", ["down", "up"])
def test_gradients_match_finite_differences(products, kind):
    layer, _ = pair(kind, *((16, 2) if kind == "down" else (2, 16)))
    x = random(1, 16, 4, 4) if kind == "down" else random(1, 2, 2, 2)

    def apply(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = [t.detach().clone().requires_grad_() for t in (x, layer.weight, layer.bias)]
    assert torch.autograd.gradcheck(apply, inputs, fast_mode=True)
    assert products


# each step of the products, its adjoint, and the shapes that they go between, for maps of unequal sides
B, N, M, C, K = 2, 2, 3, 5, 7
STEPS = {"tiles": (layers._tiles, lambda t: layers._untile(t, B, N, M), (B, 4 * N, 4 * M, C), (9, B * N * M, 4 * C)),
         "combine": (lambda p: layers._combine(p, B, N, M), layers._distribute, (9, B * N * M, K),
                     (B, 2 * N, 2 * M, K)),
         "kernels": (layers._kernels, lambda g: layers._unkernel(g, K, C), (K, C, 4, 4), (9, K, 4 * C))}


@pytest.mark.parametrize("step", STEPS)
def test_adjoint_moves_to_the_other_side_of_the_dot_product(step):
    there, back, shape_in, shape_out = STEPS[step]
    x, y = random(*shape_in), random(*shape_out, seed=1)
    assert there(x).shape == shape_out and back(y).shape == shape_in
    assert torch.sum(there(x) * y).item() == pytest.approx(torch.sum(x * back(y)).item(), rel=1e-12)


def test_up_is_the_adjoint_of_down(products):
    down, up = layers.Down(16, 24).double(), layers.Up(24, 16).double()
    with torch.no_grad():
        up.weight.copy_(down.weight)
        down.bias.zero_(), up.bias.zero_()
    x, y = random(2, 16, 8, 8), random(2, 24, 4, 4, seed=1)
    assert torch.sum(down(x) * y).item() == pytest.approx(torch.sum(x * up(y)).item(), rel=1e-12)
    assert len(products) == 2


@pytest.mark.parametrize("kind", ["down", "up"])
def test_single_precision_loses_no_more_than_rounding(products, kind):
    ours, theirs = pair(kind, 32, 16)
    x = random(4, 32, 4, 4)
    exact, single = theirs(x), ours.float()(x.float())
    assert single.dtype == torch.float32 and products
    assert (single - exact).abs().max() < 1e-5 * exact.abs().max()


def test_parameters_begin_as_the_librarys():
    for kind in ("down", "up"):
        ours = pair(kind, 16, 8)[0]
        torch.manual_seed(0)
        library = {"down": nn.Conv2d, "up": nn.ConvTranspose2d}[kind](16, 8, 4, stride=2, padding=1).double()
        assert torch.equal(ours.weight, library.weight) and torch.equal(ours.bias, library.bias)
