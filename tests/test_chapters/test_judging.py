"""The judge's chapter: rules in words, and everything shown on few images."""

from __future__ import annotations

import pytest

from lab.chapters import cifar, scale, theory
from lab.chapters import judging as ask
from lab.samples import BLURS, LADDER, RULES
from lab.session import Lab
from lab.show import Figure, finite

pytestmark = pytest.mark.usefixtures("one_thread")


def chapter(folder, with_theory):
    lab = Lab({"EPOCHS": 1, "TRAIN_LIMIT": 160, "DATA": "standin", "DEVICE": "cpu",
               "PRECISION": "fp32", "RUNS": str(folder), "EXTENSIONS": with_theory})
    known = scale.Chapter(lab)
    questions = theory.Chapter(lab, known)
    return ask.Chapter(lab, cifar.Chapter(lab, known, questions),
                       questions if with_theory else None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("judging")


@pytest.fixture(scope="module")
def made(folder):
    return chapter(folder, True)


@pytest.fixture(scope="module")
def alone(folder, made):
    made.ladder()                                   # so that its trainings are there
    return chapter(folder, False)


def test_a_rules_outcome_says_where_it_fails():
    assert ask.in_words(True, True) == "passes" and ask.in_words(False, False) == "**fails**"
    assert ask.in_words(True, False) == "**fails** on faces"
    assert ask.in_words(False, True) == "**fails** on CIFAR-10"
    assert ask.in_words(None, True) is None and ask.in_words(False, None) is None


def test_the_ladder_holds_every_disturbance_and_every_model(made, alone):
    names = made.ladder().column("real images, disturbed by")
    assert names[:len(LADDER)] == list(LADDER)
    models = ["samples of conv", "samples of fc", "samples of improved"]
    assert names[len(LADDER):] == [*models, "samples of autoencoder: noise",
                                   "samples of β = 0: noise"]
    assert alone.ladder().column("real images, disturbed by") == [*LADDER, *models]


def test_a_blur_is_read_as_its_own_width_off_the_sharpness(made):
    """Off KID it need not be, on so few images."""
    read = {row["real images, disturbed by"]: row["blur by sharpness"]
            for row in made.ladder().rows}
    for width in BLURS:
        assert read[f"blur {width:g}"] == pytest.approx(width)


def test_rules_are_shown_for_every_measure_with_the_number_passed(made):
    table = made.rules()
    assert table.column("measure") == list(ask.MEASURES.values())
    said = {"passes", "**fails**", "**fails** on faces", "**fails** on CIFAR-10", None}
    assert all(row[rule] in said for row in table.rows for rule in RULES)
    found = made.lab.found
    last = table.rows[-1]                           # of sharpness
    passed = [rule for rule in RULES if last[rule] in ("passes", "**fails** on faces")]
    assert found["rules.sharpness"] == len(passed)


def test_the_figure_shows_itself_and_spectra_are_shares_of_real_power(made, alone):
    for each in (made, alone):
        figure = each.spectrum()
        assert isinstance(figure, Figure) and len(figure.alt) > 20
        found = each.lab.found
        assert found["spectrum.real"] == 1
        assert found["spectrum.real_blur_2"] < found["spectrum.real_blur_1"] < 1
    assert "spectrum.beta0" in made.lab.found and "spectrum.beta0" not in alone.lab.found


def test_nothing_shown_or_found_is_not_a_number(made):
    made.spectrum()
    for table in (made.ladder(), made.rules()):
        assert "nan" not in table._repr_markdown_()
    assert all(finite(value) is not None for value in made.lab.found.values())
    assert {"ladder.kid.blur_05", "ladder.recall.contrast_2", "ladder.density.mean_image",
            "spectrum.ae"} <= made.lab.found.keys()


def test_tables_elsewhere_keep_what_the_judge_measures(made):
    rows = made.cifar.quality().rows
    assert [row["images"] for row in rows] == ["half of the test images", "mean image", "conv",
                                               "fc", "improved"]
    found = made.lab.found
    for key in ("real", "mean_image", "conv", "fc", "improved"):
        assert {f"{what}.{key}" for what in ("fd", "kid", "kid_error", "recall", "coverage")
                } <= found.keys()
    assert len(made.theory.sample_table().rows) == 6 and "q3.fd.beta0" in found
