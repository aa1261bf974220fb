"""What benchmarks work out without measuring: multiplications, the rows of a table."""

import sys
from pathlib import Path

import pytest

from lab.recipes import RECIPES
from vae_helpers import Recipe

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import counting  # noqa: E402
import layers as bench  # noqa: E402

NARROW = Recipe("narrow", side=16, widths=(16, 32), latent=5, batch=4)


def test_layers_are_those_of_the_recipe_in_the_order_of_the_forward_pass():
    assert counting.layers_of(NARROW) == [
        ("down", 3, 16, 16, True), ("down", 16, 32, 8, False),
        ("dense", 512, 5, 0, False), ("dense", 512, 5, 0, False), ("dense", 5, 512, 0, False),
        ("up", 32, 16, 8, False), ("up", 16, 3, 16, False)]
    linear = NARROW.but(start="linear")
    assert ("dense", 768, 5, 0, True) in counting.layers_of(linear)


@pytest.mark.parametrize("kind", ["down", "up"])
@pytest.mark.parametrize("channels, side, share", [(8, 16, 1), (16, 8, 9 / 16), (128, 16, 9 / 16)])
def test_layer_takes_sixteen_products_a_pixel_of_the_smaller_map_or_nine(kind, channels, side,
                                                                         share):
    sizes = (channels, 24) if kind == "down" else (24, channels)
    n, M, K, N = counting.forward_product(counting.Layer(kind, *sizes, side, False), 10, "bf16")
    assert n * M * K * N == 10 * share * 16 * channels * 24 * (side // 2) ** 2


def test_step_multiplies_forward_and_twice_backward_but_never_for_the_images_gradient():
    narrow = (2 * 16 * 3 * 16 * 64 + 3 * 3 * 512 * 5 + 3 * 16 * 16 * 3 * 64
              + 2 * 3 * 9 * 16 * 32 * 16)
    assert counting.multiplications(NARROW, "fp32") == narrow
    fc = RECIPES["fc"]
    dense = 2 * 3072 * 512 + 3 * (512 * 256 + 3 * 256 * 128 + 256 * 512 + 512 * 3072)
    assert counting.multiplications(fc, "bf16") == dense


def test_activations_of_a_batch_are_counted_once_each_in_four_bytes():
    dense = Recipe("dense", network="fc", widths=(7,), side=4, latent=3, batch=10)
    # flattened image, hidden and its ReLU, mu, logvar, hidden and its ReLU, logits, unflattened
    assert counting.activation_bytes(dense) == 4 * 10 * (48 + 7 + 7 + 3 + 3 + 7 + 7 + 48 + 48)


def test_every_recipes_layer_is_measured_at_its_batch():
    wanted = bench.wanted()
    assert len(wanted) == len(set(wanted))
    for name in ("conv", "improved", "celeba128"):
        convolutions = [layer for layer in counting.layers_of(RECIPES[name])
                        if layer.kind != "dense"]
        assert convolutions and {(c, RECIPES[name].batch) for c in convolutions} <= set(wanted)


def test_row_contradicts_where_the_choice_is_slower_by_more_than_a_tenth():
    assert [bench.contradicts(r, True) for r in (0.8, 0.95, 1.5)] == [True, False, False]
    assert [bench.contradicts(r, False) for r in (0.8, 1.05, 1.5)] == [False, False, True]


@pytest.mark.parametrize("way", [True, False])
@pytest.mark.parametrize("layer", [counting.Layer("down", 3, 4, 8, True),
                                   counting.Layer("up", 4, 3, 8, False)])
def test_layer_is_timed_by_either_way_whatever_the_table_says(monkeypatch, way, layer):
    used, original = [], bench.ours._kernels
    monkeypatch.setattr(bench.ours, "_kernels", lambda w: used.append(w) or original(w))
    assert bench.timed(layer, 2, "fp32", way)() > 0
    assert bool(used) == way
