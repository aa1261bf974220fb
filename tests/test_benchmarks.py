"""What benchmarks work out without measuring: multiplications, the rows of a table."""

import sys
from pathlib import Path

import pytest
from tiny import grey

from lab.recipes import RECIPES
from vae_helpers import Recipe

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import counting  # noqa: E402
import growth  # noqa: E402
import layers as bench  # noqa: E402
import sprint  # noqa: E402
from against_pythae import reached  # noqa: E402

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


# ---- curves and goals


def test_goal_is_reached_at_the_first_epoch_at_or_below_it_or_else_at_the_best():
    history = [{"test_loss": loss} for loss in (1840.0, 1826.0, 1830.0, 1825.0, 1827.0)]
    assert [reached(history, goal) for goal in (1900, 1826, 1825.5, 1800)] == [1, 2, 4, 4]


def test_students_seconds_are_the_epochs_to_convs_best_at_its_pace():
    made = [{"seed": s, "pace": pace, "seconds": 40.0, "epoch": 30.0, "loss": loss}
            for s, pace, loss in ((0, 500.0, 1823.5), (1, 400.0, 1824.5), (2, 250.0, 1827.0))]
    rows = sprint.rows_of(made, (1826.33, 9), 50_000)
    assert [row["student, seconds"] for row in rows] == [900, 1125, 1800, 1125]
    assert [row["student / sprint"] for row in rows] == [22.5, 28.125, 45, 28.125]
    assert "2 of 3" in sprint.verdict(made, (1826.33, 9))
    assert "no goal" in sprint.verdict(made, None)


def test_memory_by_calculation_grows_by_a_mapped_images_digests_and_not_by_its_pixels():
    recipe = RECIPES["celeba128"]
    more = growth.needed_bytes(recipe, 1_100) - growth.needed_bytes(recipe, 100)
    assert more == 1_000 * (8 + 48 + 40)


def test_epoch_that_is_begun_takes_so_many_steps(monkeypatch):
    taken, step = [], growth.training.step
    monkeypatch.setattr(growth.training, "step", lambda *a: taken.append(1) or step(*a))
    growth.begin_epoch(NARROW, grey(40, side=16), 3)
    assert len(taken) == 3
