"""What the measures are worth: rules in words, other judges, and everything on few images."""

import pytest
import torch
from tiny import assert_shows, short_lab

from lab.chapters import cifar, judging
from lab.samples import LADDER, RULES, frechet_distance, gaussian_fit
from lab.show import Figure


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return short_lab(tmp_path_factory.mktemp("judging"), 160)


def test_a_rules_outcome_says_where_it_fails():
    assert judging.in_words(True, True) == "passes"
    assert judging.in_words(False, False) == "**fails**"
    assert judging.in_words(True, False) == "**fails** on faces"
    assert judging.in_words(False, True) == "**fails** on CIFAR-10"
    assert judging.in_words(None, True) is None and judging.in_words(False, None) is None


def test_the_record_holds_every_disturbance_and_every_model(lab):
    models = ["conv", "fc", "improved", "autoencoder: noise", "β = 0: noise"]
    names = judging.ladder(lab).column("images")
    assert names == [*LADDER, *(f"samples of {name}" for name in models)]
    table = judging.rules(lab)
    assert table.column("measure") == list(judging.MEASURES.values())
    assert set(table.rows[0]) == {"measure", *RULES} and "nan" not in repr(table)


def test_judges_are_trained_and_not_and_say_how_near_noise_is(lab):
    trained, untrained = judging.judges(lab).rows
    judge, noise = lab.judge_of("FD-CIFAR", trained=False), cifar.samples(lab, "small-beta0")
    assert judge.net is not lab.judge.net and trained["judge"] == "trained, seed 0"
    real = gaussian_fit(judge.net.describe(lab.cifar.test.images / 255))
    drawn = gaussian_fit(judge.net.describe(noise))
    mean = gaussian_fit(judge.net.describe(torch.cat([judge.mean] * 2)))
    share = frechet_distance(drawn, real) / frechet_distance(mean, real)
    assert untrained["β = 0"] == pytest.approx(share, rel=1e-3)
    assert lab.found["judges.lead"] == pytest.approx(trained["VAE"] - trained["β = 0"])


def test_the_figure_shows_itself_and_keeps_shares_of_real_power(lab):
    assert_shows(judging.spectrum(lab), Figure)
    assert 0 < lab.found["spectrum.conv"] and 0 < lab.found["spectrum.beta0"]
