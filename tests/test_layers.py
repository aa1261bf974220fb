"""Convolutions as products are the library's: values, gradients, adjoints, where they are used."""

import copy

import pytest
import torch
from torch import nn

from lab import layers
from vae_helpers import Recipe, build, elbo_terms


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def products(monkeypatch):
    """Counts how often the products are used, so that no test compares the library with itself."""
    calls, original = [], layers._kernels

    def kernels(w):
        calls.append(tuple(w.shape))
        return original(w)

    monkeypatch.setattr(layers, "_kernels", kernels)
    return calls


PLAIN = {"down": nn.Conv2d, "up": nn.ConvTranspose2d}


def pair(kind, channels, out):
    """A layer of ours and the library's, with equal weights, in float64."""
    torch.manual_seed(0)
    theirs = PLAIN[kind](channels, out, 4, stride=2, padding=1).double()
    return layers.fast(copy.deepcopy(theirs)), theirs


def outputs_and_gradients(layer, x, seed=9):
    x = x.clone().requires_grad_()
    y = layer(x)
    torch.sum(y * random(*y.shape, seed=seed)).backward()
    return y, x.grad, layer.weight.grad, layer.bias.grad


# (kind, batch, channels in, channels out, height, width) of maps that the products are used for,
USED = [("down", 2, 16, 5, 4, 4), ("down", 3, 32, 16, 8, 8), ("down", 1, 128, 3, 16, 16),
        ("down", 2, 16, 7, 8, 4), ("up", 2, 5, 16, 2, 2), ("up", 3, 32, 16, 4, 4),
        ("up", 1, 3, 128, 8, 8), ("up", 2, 7, 16, 4, 2)]
# and of others: few channels for the map, a large map, one that is not cut into blocks of two
UNUSED = [("down", 2, 3, 16, 8, 8), ("down", 1, 16, 8, 16, 16), ("down", 1, 128, 8, 32, 32),
          ("down", 2, 16, 8, 6, 6), ("down", 2, 16, 8, 2, 2), ("down", 1, 16, 8, 4, 6),
          ("up", 2, 16, 3, 4, 4), ("up", 1, 8, 16, 8, 8), ("up", 1, 8, 128, 16, 16),
          ("up", 2, 8, 16, 3, 3), ("up", 2, 8, 16, 1, 1), ("up", 1, 8, 16, 2, 3)]


# ---- one layer


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", USED + UNUSED, ids=lambda c: "-".join(map(str, c)))
def test_layer_equals_the_librarys_with_all_gradients(products, case, memory):
    kind, batch, channels, out, height, width = case
    ours, theirs = pair(kind, channels, out)
    ours = ours.to(memory_format=memory)
    x = random(batch, channels, height, width).to(memory_format=memory)
    found, known = outputs_and_gradients(ours, x), outputs_and_gradients(theirs, x)
    torch.testing.assert_close(found, known, rtol=1e-11, atol=1e-11)
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


# each step of the products, its adjoint, and the shapes that they go between, for unequal sides
B, N, M, C, K = 2, 2, 3, 5, 7
STEPS = {"tiles": (layers._tiles, lambda t: layers._untile(t, B, N, M),
                   (B, 4 * N, 4 * M, C), (9, B * N * M, 4 * C)),
         "combine": (lambda p: layers._combine(p, B, N, M), layers._distribute,
                     (9, B * N * M, K), (B, 2 * N, 2 * M, K)),
         "kernels": (layers._kernels, lambda g: layers._unkernel(g, K, C),
                     (K, C, 4, 4), (9, K, 4 * C))}


@pytest.mark.parametrize("step", STEPS)
def test_adjoint_moves_to_the_other_side_of_the_dot_product(step):
    there, back, shape_in, shape_out = STEPS[step]
    x, y = random(*shape_in), random(*shape_out, seed=1)
    assert there(x).shape == shape_out and back(y).shape == shape_in
    assert torch.sum(there(x) * y).item() == pytest.approx(torch.sum(x * back(y)).item(), rel=1e-12)


def test_up_is_the_adjoint_of_down(products):
    down, up = pair("down", 16, 24)[0], pair("up", 24, 16)[0]
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


# ---- a model of such layers

RECIPE = Recipe("narrow", side=16, widths=(16, 32), residual=1, latent=5)


def test_fast_model_has_the_plain_ones_keys_and_values_and_the_same_objects():
    plain, model = build(RECIPE), build(RECIPE)
    before = dict(model.named_parameters())
    assert layers.fast(model) is model
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(value is before[name] for name, value in model.named_parameters())
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    plain.load_state_dict(model.state_dict()), model.load_state_dict(plain.state_dict())


def test_fast_changes_the_4x4_layers_of_stride_2_and_no_other():
    plain, model = build(RECIPE), layers.fast(build(RECIPE))
    changed = {nn.Conv2d: layers.Down, nn.ConvTranspose2d: layers.Up}
    for before, after in zip(plain.modules(), model.modules(), strict=True):
        halves = getattr(before, "kernel_size", None) == (4, 4)
        assert type(after) is (changed[type(before)] if halves else type(before))
    others = [nn.Conv2d(16, 8, 4), nn.Conv2d(16, 8, 3, stride=2, padding=1),
              nn.Conv2d(16, 8, 4, stride=2), nn.ConvTranspose2d(16, 8, 2, 2)]
    for layer, kind in zip(others, map(type, others), strict=True):
        assert type(layers.fast(layer)) is kind


def test_fast_model_gives_the_plain_ones_outputs_and_gradients(products):
    plain, model = build(RECIPE).double(), layers.fast(build(RECIPE).double())
    x, eps = torch.rand(6, 3, 16, 16, generator=generator()).double(), random(6, 5)
    losses = []
    for each in (plain, model):
        logits, mu, logvar = each(x, eps)
        losses.append(logits.square().sum() + mu.sum() + logvar.sum())
        losses[-1].backward()
    assert products
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=0)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-9)


def test_a_map_that_the_table_does_not_name_is_left_to_the_library(products, monkeypatch):
    plain, model = build(RECIPE), layers.fast(build(RECIPE))
    x, eps = torch.rand(4, 3, 16, 16, generator=generator()), random(4, 5).float()
    elbo_terms(model, x, eps)
    assert len(products) == 2                   # 32 channels on 8x8 down, 16 on 8x8 up
    monkeypatch.setattr(layers, "FASTER", {})
    found, known = elbo_terms(model, x, eps), elbo_terms(plain, x, eps)
    assert len(products) == 2
    assert torch.equal(found.reconstruction, known.reconstruction)
    assert torch.equal(found.kl, known.kl)


def test_table_is_read_by_device_precision_side_and_channels(monkeypatch):
    monkeypatch.setattr(layers, "FASTER", {("cpu", "bf16"): ((8, 16),), ("cpu", "fp32"): ()})
    half, single = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)
    pays = layers.products_pay
    assert pays(half, (8, 8), 16) and pays(half, (4, 8), 99)
    assert not pays(half, (8, 8), 15) and not pays(half, (8, 16), 99) and not pays(half, (8, 6), 99)
    assert not pays(single, (8, 8), 16) and not pays(half.to("meta"), (8, 8), 16)
