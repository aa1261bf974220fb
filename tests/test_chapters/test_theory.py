"""The theory's numbers on few images: what a table says is what the page's own code does, and
closed forms where there are some."""

import math

import pytest
import torch
from tiny import assert_shows, short_lab

from lab.chapters import theory
from lab.show import Table


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return short_lab(tmp_path_factory.mktemp("theory"), 160)


@pytest.mark.parametrize("name", ["mixture", "tightness", "draws_needed", "noise_losses", "law",
                                  "sample_distances", "two_sample", "price", "averaging"])
def test_every_table_shows_itself_on_few_images(lab, name):
    assert_shows(getattr(theory, name)(lab), Table)


def test_the_kl_is_what_codes_tell_and_the_mismatch_of_their_mixture(lab):
    for row in theory.mixture(lab).rows:
        assert row["KL"] == pytest.approx(row["I(x; z)"] + row["KL(q_N‖p)"])
        assert row["I(x; z)"] < row["ln N"] == pytest.approx(math.log(160))


def test_a_linear_posterior_gains_nothing_and_a_wider_one_most_of_its_known_gap(lab):
    images = lab.cifar.test.images[:20]
    exact = theory.linear_row(lab, "exact", images, [1, 10], 1.0)
    assert exact["known gap"] == 0 and exact["10 draws"] == pytest.approx(0, abs=1e-3)
    wider = theory.linear_row(lab, "wider", images, [1, 100], 1.1)
    assert wider["known gap"] == pytest.approx(64 * (0.1 - math.log(1.1)))
    assert wider["100 draws"] == pytest.approx(wider["known gap"], abs=4 * wider["±"] + 0.05)


def test_losses_under_noise_are_those_that_the_picture_states(lab):
    row = theory.noise_losses(lab).rows[0]
    run, images = lab.run("small"), lab.cifar.test.images
    mu = lab.codes(run)[0]
    eps = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    still, half, whole = (theory.loss_at(run, images, mu + s * mu.std(0) * eps).mean().item()
                          for s in (0, 0.5, 1))
    assert row["at s = 0"] == pytest.approx(still)
    assert row["added by s = ½"] == pytest.approx(half - still, abs=1e-3)
    assert row["added by s = 1"] == pytest.approx(whole - still, abs=1e-3)


def test_quartiles_are_those_of_the_images():
    row = theory.quartiles("ratio", torch.tensor([4.0, 1, 2, 3, 5]))
    assert list(row.values()) == ["ratio", 2, 3, 4]


def test_averaging_both_terms_is_a_weight_of_24_and_one_collapses_the_code(lab):
    rows = {row["loss"]: row for row in theory.averaging(lab).rows}
    assert rows["both averaged"]["weight of the KL"] == 3072 / 128
    assert rows["reconstruction averaged"]["σ²"] == 3072 / 4
    assert rows["reconstruction averaged"]["directions above σ²"] == 0
