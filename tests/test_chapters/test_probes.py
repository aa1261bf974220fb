"""Probes and edits: other codes of the same faces, and short runs with and without trainings."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import generator

from lab import linear
from lab.chapters import faces, scale
from lab.chapters import probes as ask
from lab.linear import pca_scores
from lab.session import Lab
from lab.show import Figure, Table
from lab.training import draw_codes
from vae_helpers import build

pytestmark = pytest.mark.usefixtures("one_thread")


def planted(eigenvalues):
    """A spectrum of these eigenvalues, of as many pixels."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    n = len(values)
    return linear.Spectrum(values, torch.eye(n, dtype=torch.float64),
                           torch.full((n,), 0.5, dtype=torch.float64), values.sum().item())


# ---- other codes


def test_pca_scores_are_uncorrelated_and_have_the_eigenvalues_as_variances():
    images = torch.randint(0, 256, (300, 3, 4, 4), dtype=torch.uint8, generator=generator())
    known = linear.spectrum(images, top=10)
    scores = pca_scores(known, images, 6).double()
    covariance = scores.T @ scores / 300
    assert torch.allclose(covariance, known.eigenvalues[:6].diag(), atol=1e-5)


@pytest.mark.parametrize("rate", [0.3, 1.0, 4.0])
def test_a_linear_model_as_dear_spends_as_many_nats(rate):
    known = planted([4.0, 2.0, 1.0, 0.25, 0.01])
    sigma2 = ask.as_dear(known, rate)
    assert linear.linear_optimum(known, sigma2).rate == pytest.approx(rate)


def test_a_rate_that_no_linear_model_of_these_directions_spends_has_no_price():
    known = planted([4.0, 2.0, 1.0])
    assert ask.as_dear(known, 0.0) is None and ask.as_dear(known, 5.0) is None


def test_posteriors_of_the_linear_model_fill_the_prior():
    """The variance of mu and that of the noise add up to 1 in every direction that is kept."""
    known = planted([4.0, 2.0, 0.1])
    scores = torch.randn(20_000, 3, generator=generator()) * known.eigenvalues.sqrt()
    mu, logvar = ask.linear_posteriors(known, scores, 0.5)
    assert mu.shape == logvar.shape == (20_000, 2)
    assert torch.allclose(mu.var(0) + logvar[0].exp(), torch.ones(2), atol=0.02)
    z = draw_codes(mu, logvar, generator())
    assert torch.allclose(z.var(0), torch.ones(2), atol=0.03) and z.mean().abs() < 0.02


# ---- numbers of a matrix


def test_what_lies_beside_a_diagonal():
    found = ask.beside({"a": {"a": 1.0, "b": -0.2, "c": 0.1}, "b": {"a": 0.3, "b": 0.5, "c": 0.0}})
    assert found["diagonal"] == pytest.approx(0.75)
    assert found["rest"] == pytest.approx(0.15) and found["worst"] == pytest.approx(0.6)


def test_a_matrix_of_one_has_nothing_beside_it_and_of_none_no_numbers():
    assert ask.beside({"a": {"a": 2.0}}) == {"diagonal": 2.0, "rest": None, "worst": None}
    assert ask.beside({}) == dict.fromkeys(("diagonal", "rest", "worst"))
    assert ask.beside({"a": {"a": 0.0, "b": 1.0}})["worst"] is None


# ---- a short run


def session(folder, extensions):
    return Lab({"EPOCHS": 1, "TRAIN_LIMIT": 160, "DATA": "standin", "DEVICE": "cpu",
                "PRECISION": "fp32", "RUNS": str(folder), "EXTENSIONS": extensions})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def chapter_of(lab, constant="Blond_Hair"):
    """The chapter, few of whose faces are edited, and all of whose training faces have one
    attribute."""
    scales = scale.Chapter(lab)
    chapter = ask.Chapter(lab, scales, faces.Chapter(lab, scales))
    labels = chapter.train.labels.clone()
    labels[:, chapter.names.index(constant)] = True
    chapter.train, chapter.EDITED = replace(chapter.train, labels=labels), 10
    return chapter


@pytest.fixture(scope="module")
def chapter(folder):
    """Without extensions: the face model is there, and none of 128×128."""
    return chapter_of(session(folder, False))


@pytest.fixture(scope="module")
def shown(chapter):
    return {name: getattr(chapter, name)() for name in ("table", "summary", "edits", "edited")}


def assert_shows(table):
    assert isinstance(table, Table) and table._repr_markdown_()
    assert all(list(row) == list(table.rows[0]) for row in table.rows)
    values = [value for row in table.rows for value in row.values()]
    assert all(value is None or isinstance(value, str) or math.isfinite(value) for value in values)


def test_everything_shows_itself_without_the_large_models(chapter, shown):
    for name in ("table", "summary", "edits"):
        assert_shows(shown[name])
    assert isinstance(shown["edited"], Figure) and len(shown["edited"].alt) > 20
    missing = [row for row in shown["summary"].rows if "not trained here" in row["read from"]]
    assert len(missing) == len(ask.LARGE) and all(row["AUC, mean"] is None for row in missing)
    assert not any(name.startswith("probes.auc_b") for name in chapter.lab.found)


def test_an_attribute_that_does_not_vary_is_empty_and_says_why(chapter, shown):
    *rows, last = shown["table"].rows
    assert sorted(row["attribute"] for row in (*rows, last)) == sorted(chapter.names)
    assert last["attribute"] == "Blond_Hair" and last["AUC, codes"] is last["difference"] is None
    assert last["note"] == "the training faces do not differ in it"


def test_an_attribute_that_does_not_vary_is_not_edited_and_says_why(shown):
    for row in shown["edits"].rows:
        there = [row[name] is not None for name in ask.SHOWN]
        if row["edited"] == "Blond_Hair":
            assert not any(there) and row["most else"] == "the training faces do not differ in it"
        else:
            assert there == [name != "Blond_Hair" for name in ask.SHOWN]


def test_the_rows_fall_by_what_the_code_adds(shown):
    differences = [x for x in shown["table"].column("difference") if x is not None]
    assert differences and differences == sorted(differences, reverse=True)


def test_findings_that_prose_and_claims_quote_are_there(chapter, shown):
    names = ("auc_mean pca_auc_mean both_auc_mean draws_auc linear_draws_auc difference "
             "difference_error added added_error better worse auc_few pca_auc_few").split()
    for name in names:
        assert f"probes.{name}" in chapter.lab.found
    for way in ("mean", "equal", "probe", "real"):
        for what in ("diagonal", "rest", "worst", "else"):
            assert f"edits.{way}_{what}" in chapter.lab.found


def untrained(lab, label):
    """A run of 128×128 whose model is as it was drawn."""
    job = lab.wanted[label]
    return SimpleNamespace(model=build(job.recipe).eval(), recipe=job.recipe, precision="fp32",
                           history=[{}], chosen={"test_kl": 1.0}, hash="0123abcd")


def test_the_large_models_are_compared_where_they_are_trained(folder, shown):
    chapter = chapter_of(session(folder, False))
    chapter.lab.optional = lambda label: untrained(chapter.lab, label)
    rows = chapter.by_beta()
    assert_shows(Table(rows))
    assert not any("not trained here" in row["read from"] for row in rows)
    assert [row["β"] for row in rows[-4:]] == [1, 1, 4, 10]
    for key in ("auc_b1", "auc_b4", "auc_b10", "b10_less_b1", "b10_less_b1_error"):
        assert chapter.lab.found.kept[f"probes.{key}"]["run"] in ("0123abcd", None)
