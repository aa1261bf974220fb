"""Task 1: its numbers where the answer is known, over trainings that never were."""

import pytest
from tiny import assert_shows, put_linear, short_lab

from lab.chapters import cifar
from lab.chapters.scale import scale
from lab.linear import linear_optimum, linear_vae_parameters
from lab.recipes import RECIPES, Training
from lab.runs import Run
from lab.show import Figure, Table
from vae_helpers import Recipe, build


def past(name, loss, seed=0, seconds=(10.0, 10.0), **changes):
    """A run of as many epochs that ends at this test loss, its network untrained."""
    recipe = RECIPES["fc"].but(name=name, widths=(8,), **changes)
    history = [{"epoch": i, "loss": loss - 1.0, "reconstruction": loss - 6.0, "kl": 5.0,
                "test_loss": loss + len(seconds) - i, "test_reconstruction": loss - 6.0,
                "test_kl": 6.0, "seconds": s, "start_seconds": 1.0 if changes else 0.0,
                "device": "CPU"} for i, s in enumerate(seconds, 1)]
    identity = {"recipe": {"name": name}, "images": 200, "precision": "fp32", "seed": seed}
    return Run(recipe, build(recipe, seed).eval(), history, None, identity, False)


@pytest.fixture
def lab(tmp_path):
    """A small run in which the trainings that a default one has were done, and a few more."""
    made = short_lab(tmp_path, 150)
    made.runs = {Training("conv"): past("conv", 1940.0), Training("fc"): past("fc", 1980.0),
                 Training("fc", 1): past("fc", 1983.0, seed=1),
                 Training("small"): past("small", 1945.0),
                 Training("improved"): past("improved", 1930.0),
                 Training("sprint"): past("sprint", 1939.0, seconds=(4.0,), start="weights"),
                 Training("fc-pca"): past("fc-pca", 1937.0)}
    return made


def test_a_row_is_of_the_first_seed_and_mean_and_deviation_are_of_all_that_are_there(lab):
    floor, shown = scale(lab, "cifar").test_floor, cifar.losses(lab)
    rows = {row["model"]: row for row in shown.rows}
    fc, conv = rows["**fc**"], rows["**conv**"]
    assert (fc["epochs"], fc["test loss"], fc["KL"], fc["seconds"]) == (2, 1980, 6, 20)
    assert (fc["above the floor"], fc["mean of seeds"], fc["seeds"]) == pytest.approx(
        (1980 - floor, 1981.5 - floor, 2))
    assert fc["±"] == pytest.approx(3 / 2 ** 0.5)               # of 0 and 3, from their mean
    assert (conv["mean of seeds"], conv["±"]) == (pytest.approx(1940 - floor), None)
    assert rows["mean image"]["test loss"] == scale(lab, "cifar").test_mean_image
    found = lab.found
    assert (found["fc.above_floor"] - found["conv.above_floor"], found["conv.loss"]) == (40, 1939)
    assert found["fc.training_sd"] == pytest.approx(3 / 2 ** 0.5)
    assert not {"conv.training_sd", "fc_cycle.less"} & set(found)


def test_every_loss_has_what_the_answer_does_not_speak_of_and_says_what_is_missing(lab):
    answer, every = cifar.losses(lab), cifar.every_loss(lab)
    assert "fc-norm" in answer.caption and "fc-wide" not in answer.caption
    assert "fc-wide" in every.caption and "improved" not in every.caption
    rows = {row["model"]: row for row in every.rows}
    assert set(rows) - set(answer.column("model")) == {"PCA with one gain", "sprint"}
    pca = rows["PCA with one gain"]["test loss"]
    assert lab.found["fc_pca.trained"] == pytest.approx(pca - 1937)


def test_the_linear_vae_of_training_images_is_on_the_line_that_models_are_set_against(lab):
    """Of test images, on which its rate and squared error are others."""
    known = scale(lab, "cifar").spectrum
    model = build(Recipe("linear", network="fc", widths=(), norm=False, link="identity",
                         reconstruction="sse"))
    put_linear(model, linear_vae_parameters(known, 0.1, 128))
    rate, ratio = cifar.over_linear(lab, model)
    assert ratio == pytest.approx(1, abs=0.02)                      # [0, 1] cuts a little off
    assert rate != pytest.approx(linear_optimum(known, 0.1).rate, rel=0.05)


def test_permuting_costs_the_difference_of_training_losses_or_says_what_is_missing(lab):
    assert isinstance(cifar.permuted(lab), Table)                   # of what is not trained
    for name, loss in {"conv": 1965.0, "fc": 1981.0, "fc-pca": 1937.0, "improved": 1936.0}.items():
        lab.runs[Training(name, permuted=True)] = past(name, loss, seed=2)
    assert isinstance(cifar.permuted(lab), Figure) and cifar.losses(lab)
    found, floor = lab.found, scale(lab, "cifar").floor
    assert (found["permuted.conv"], found["permuted.fc"]) == (25, 1)
    assert found["permuted.lead_left"] == 16
    assert found["permuted.improved_ends"] == pytest.approx(1935 - floor)


def test_samples_are_measured_for_every_model_and_shown_beside_real_images(lab):
    rows = {row["images"]: row for row in cifar.quality(lab).rows}
    assert list(rows) == ["half of the test images", "mean image", "PCA", *cifar.JUDGED]
    assert [rows[name]["seeds"] for name in ("conv", "fc")] == [1, 2]


def test_trials_show_what_is_finished_beside_the_first_and_count_what_is_not(lab):
    tried = {name: lab.job(RECIPES["fc"].but(name=name, widths=(width,), trial=True))
             for name, width in (("plain", 8), ("wider", 16), ("widest", 32))}
    last = tried["wider"].train().last["heldout_loss"]
    shown = cifar.trial_table(tried)
    assert shown.caption.startswith("Missing here: 2 of 3 trials") and len(shown.rows) == 1
    assert shown.rows[0]["against the first"] is None               # which is not there
    first = tried["plain"].train().last["heldout_loss"]
    rows = cifar.trial_table(tried).rows
    assert [row["against the first"] for row in rows] == [0, last - first]


def test_figures_and_tables_show_something_and_a_start_counts_among_the_seconds(lab):
    for shown in (cifar.curves(lab), cifar.by_seconds(lab)):
        assert_shows(shown, Figure)
    assert lab.found["sprint.sooner"] == pytest.approx(20 / (1 + 4))
    for shown in (cifar.gaps(lab), cifar.trials(lab), cifar.sprint_trials(lab)):
        assert_shows(shown, Table)
