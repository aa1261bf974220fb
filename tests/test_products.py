"""Layers as products are the library's: values, gradients, parameters, where they are used."""

import copy

import pytest
import torch
from torch import nn

from lab import products
from vae_helpers import Recipe, build

PLAIN = {"down": nn.Conv2d, "up": nn.ConvTranspose2d}
# (kind, batch, channels in, channels out, height, width): in which precisions it is a product
CASES = {("down", 2, 128, 5, 8, 8): "fp32 bf16", ("down", 3, 130, 4, 2, 6): "fp32 bf16",
         ("up", 2, 5, 128, 4, 4): "fp32 bf16", ("up", 1, 3, 130, 2, 1): "fp32 bf16",
         ("down", 1, 128, 4, 16, 8): "bf16", ("up", 2, 4, 128, 5, 2): "bf16",
         ("down", 1, 127, 5, 8, 8): "", ("up", 1, 128, 127, 8, 2): "",
         ("down", 2, 128, 3, 7, 8): "", ("down", 1, 128, 3, 8, 5): "",
         ("down", 1, 128, 3, 4, 18): "", ("up", 1, 3, 128, 2, 9): ""}


@pytest.fixture
def used(monkeypatch):
    """What the product multiplied, so that no test compares the library with itself."""
    weights, original = [], products.as_matrix
    monkeypatch.setattr(products, "as_matrix", lambda w: weights.append(w) or original(w))
    return weights


def pair(kind, *channels):
    """A layer of ours and the library's, with equal weights."""
    torch.manual_seed(0)
    theirs = nn.Sequential(PLAIN[kind](*channels, 4, stride=2, padding=1))
    return products.fast(copy.deepcopy(theirs).to(memory_format=torch.channels_last)), theirs


def outputs_and_gradients(layer, x):
    y = layer(x := x.detach().requires_grad_())
    torch.sum(y.double().sin()).backward()
    return [y, x.grad, layer[0].weight.grad, layer[0].bias.grad]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last, None])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp32 -> bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_the_librarys_with_all_gradients(used, case, precision, layout):
    kind, batch, channels, out, height, width = case
    (ours, theirs), x = pair(kind, channels, out), torch.randn(batch, channels, height, 2 * width)
    x = (x.bfloat16() if precision == "bf16" else x)[..., ::2]
    x = x.contiguous(memory_format=layout) if layout else x
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"):
        found = outputs_and_gradients(ours, x)
    # In doubles, as the library's own gradient of a map one pixel wide is nonsense in bf16 on AMX.
    if precision != "fp32":
        theirs, x = theirs.bfloat16(), x.bfloat16()                 # the numbers that it multiplies
    known = outputs_and_gradients(theirs.double(), x.double())
    near = 1e-4 if precision == "fp32" else 0.03
    torch.testing.assert_close(found, known, rtol=near, atol=near, check_dtype=False)
    assert len(used) == (precision[:4] in CASES[case])


def test_fast_model_keeps_parameters_keys_and_other_layers_and_draws_nothing():
    plain = build(Recipe("narrow", side=16, widths=(16, 32), residual=1, latent=5)).eval()
    model, before = copy.deepcopy(plain), torch.get_rng_state()
    parameters = dict(model.named_parameters())
    assert products.fast(model) is model and torch.equal(torch.get_rng_state(), before)
    assert all(value is parameters[name] for name, value in model.named_parameters())
    assert list(model.state_dict()) == list(plain.state_dict())
    for ours, theirs in zip(model.modules(), plain.modules(), strict=True):
        halves = getattr(theirs, "kernel_size", None) == (4, 4)
        assert type(ours) is (products.OURS if halves else {}).get(type(theirs), type(theirs))
        assert not ours.training


@pytest.mark.parametrize("change", [dict(kernel_size=3), dict(stride=1), dict(padding=0),
                                    dict(groups=2), dict(dilation=2), dict(bias=False)], ids=str)
def test_layer_of_another_form_stays(change):
    form = dict(kernel_size=4, stride=2, padding=1)
    for layer in (nn.Conv2d(8, 8, **form | change), nn.Conv2d(8, 8, **form, padding_mode="reflect"),
                  nn.ConvTranspose2d(8, 8, **form | change),
                  nn.ConvTranspose2d(8, 8, **form, output_padding=1)):
        assert products.fast(nn.Sequential(layer))[0] is layer


def test_decoder_without_gradients_copies_no_weights():
    layer, _ = pair("up", 5, 128)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.profiler.profile() as seen:
        layer(torch.randn(2, 5, 4, 4))
    assert {event.name for event in seen.events()} & {"aten::mm", "aten::bmm"} == {"aten::mm"}
