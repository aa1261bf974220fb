"""The comparison of settings: planted margins and curves, weights of another epoch."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny import assert_shows, noise_images, short_lab

from data import Splits
from lab import linear
from lab.chapters import sweep as ask
from lab.recipes import RECIPES, Training
from lab.runs import Run
from lab.show import Figure, Table
from lab.training import evaluate, summary
from vae_helpers import build

# ---- numbers that are known


def test_a_planted_oscillation_after_the_fifth_epoch_is_as_unsteady_as_it_is_wide():
    early, fall = [300, 120, 250, 99], [80 - 0.7 * i for i in range(16)]
    waves = [loss + 0.4 * (-1) ** i for i, loss in enumerate(fall)]
    assert ask.unsteadiness(early + fall) == pytest.approx(0, abs=1e-12)
    assert ask.unsteadiness(early + waves) == pytest.approx(      # 15 steps of ± 0.8
        0.8 * math.sqrt((15 ** 2 - 1) / (15 * 14)))
    assert ask.unsteadiness(early + [5.0, 6.0]) is None


def test_a_standard_deviation_is_pooled_over_groups_of_two_and_more():
    assert ask.pooled_sd([[1, 3], [10, 10], [77]]) == pytest.approx(1)
    assert math.isnan(ask.pooled_sd([[1], [2]]))


def test_the_linear_models_losses_are_its_optimum_on_its_own_images():
    images = noise_images(60, side=32)
    lab = SimpleNamespace(kept={}, splits=lambda name: Splits(images, images, noise_images(9, 32)))
    recipe = RECIPES["p2-conv"]
    best = linear.linear_optimum(linear.spectrum(images.images, 59), recipe.sigma2, recipe.latent)
    heldout, test = ask.linear_losses(lab, "p2-conv")
    assert heldout == pytest.approx(best.loss(), rel=1e-4) and test != heldout


def test_margins_are_the_least_of_what_a_claim_speaks_of_and_negative_where_it_fails():
    def each(*values):
        return [ask.Estimate(value, 0.3) for value in values]

    conv = {"epochs": each(20, 20, 20), "test loss": each(75, 74, 76), "KID": each(2, 2, 2),
            "unsteadiness": each(0.3, 0.2, 0.2)}
    fc = {"epochs": each(20, 30, 30), "test loss": each(84, 80, 79), "KID": each(4, 3, 3.2),
          "unsteadiness": each(0.2, 0.4, 0.2)}
    found = {key: margin for key, (_, margin) in ask.margins(conv, fc).items()}
    assert {key: round(margin.value, 6) for key, margin in found.items()} == {
        "test_loss": 3, "epochs": 0, "stable_test_loss": 3, "stable_kid": 1, "coherent": 0.2,
        "improved": 1, "unsteady_conv": 0.1, "unsteady_fc": -0.2}
    assert found["improved"].error == pytest.approx(0.3 * math.sqrt(2))
    assert found["stable_kid"].error == pytest.approx(0.3 * 2)
    fc["test loss"] = each(84, 80, 81)
    assert ask.margins(conv, fc)["improved"][1].value == -1                 # p2 is better


# ---- trainings


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A notebook with trainings whose curves are made up: the first seed, a second of p1 and p2."""
    monkeypatch.setattr(ask, "PAIRS", 3)
    lab = short_lab(tmp_path, 120)
    judge = SimpleNamespace(measure=lambda images: {"kid": images.std().item(), "kid_error": 0.5})
    lab.kept["judge", "FD-CIFAR", 0, True] = judge
    again = [name for name in ask.NAMES if not name.startswith("p3")]
    for name, seed in [(name, 0) for name in ask.TRAININGS] + [(name, 1) for name in again]:
        recipe = RECIPES[name]
        model = build(recipe, seed).eval()
        terms = evaluate(model, lab.splits(name).heldout.images, seed=seed)
        loss = summary(recipe, terms)["loss"]
        history = [{"epoch": i + 1, "heldout_loss": loss + abs(i - 5), "test_loss": loss + i % 6,
                    "loss": loss, "device": "CPU"} for i in range(9)]
        lab.runs[Training(name, seed)] = Run(recipe, model, history, tmp_path / name,
                                             {"seed": seed, "precision": "fp32"}, True)
    return lab


def test_everything_shows_itself_and_keeps_what_claims_read(lab):
    for table in (ask.losses, ask.rankings, ask.every_training):
        assert_shows(table(lab), Table)
    ask.keep_paths(lab)
    for figure in (ask.curves, ask.by_name):
        assert_shows(figure(lab), Figure)
    row = ask.losses(lab).rows[0]
    assert row["epochs"] == 9 and row["test loss"] == row["held-out loss"] + 5
    assert row["rise"] == pytest.approx(2)                      # from the least to the last
    assert lab.found["sweep.loaded.loss"] == pytest.approx(lab.found["sweep.loaded.stored"])
    assert {"sweep.error.test_loss", "sweep.p2_conv_on.rise", "sweep.sd.loss_fc",
            "sweep.path.doubling", "sweep.path_untrained.doubling"} < set(lab.found)


def test_errors_are_of_seeds_and_for_kid_of_samples_too(lab):
    p1, p2, p3 = ask.in_settings(lab, "test loss", "fc")
    assert [len(p1), len(p2), len(p3)] == [2, 2, 1]
    sd = math.sqrt(((p1[0] - p1[1]) ** 2 + (p2[0] - p2[1]) ** 2) / 4)
    errors = [error for _, error in ask.estimates(lab, "test loss", "fc")]
    assert errors == pytest.approx([sd / math.sqrt(2), sd / math.sqrt(2), sd])
    drawn = [error for _, error in ask.estimates(lab, "KID", "fc")]
    assert drawn[2] >= 0.5 and drawn[0] >= 0.5 / math.sqrt(2)
    lab.runs = {key: run for key, run in lab.runs.items() if not key.seed}
    assert ask.rankings(lab).column("±") == [None] * 8          # one seed has no deviation


def test_weights_that_do_not_give_the_stored_loss_are_refused(lab):
    run = lab.run("p2-conv")
    assert ask.checked_loss(lab, run) == pytest.approx(run.chosen["heldout_loss"], rel=1e-6)
    with torch.no_grad():
        run.model.decoder[-1].bias.add_(1)
    with pytest.raises(ValueError, match="delete that folder"):
        ask.checked_loss(lab, run)
