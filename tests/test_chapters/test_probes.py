"""Probes and edits: other codes of the same faces, and everything once on few of them."""

from types import SimpleNamespace

import pytest
import torch
from tiny import assert_shows, generator, planted, short_lab

from lab.chapters import probes as ask
from lab.chapters import scale
from lab.linear import linear_optimum
from lab.recipes import RECIPES, Training
from lab.show import Table
from lab.training import draw_codes


@pytest.mark.parametrize("rate", [0.3, 1.0, 4.0, 20.0])
def test_a_linear_model_at_equal_nats_spends_as_many(rate):
    known = planted(4.0, 2.0, 1.0, 0.25, 0.01)
    sigma2 = ask.sigma2_at(known, rate, 3)
    assert linear_optimum(known, sigma2, 3).rate == pytest.approx(rate)


def test_posteriors_of_the_linear_model_fill_the_prior():
    """The variance of mu and that of the noise add up to 1 in every direction that is kept."""
    known = planted(4.0, 2.0, 0.1)
    scores = torch.randn(20_000, 3, generator=generator()) * known.eigenvalues.sqrt()
    mu, logvar = ask.linear_posteriors(known, scores, 0.5)
    assert mu.shape == logvar.shape == (20_000, 2)
    torch.testing.assert_close(mu.var(0) + logvar[0].exp(), torch.ones(2), atol=0.02, rtol=0)
    z = draw_codes(mu, logvar, generator())
    torch.testing.assert_close(z.var(0), torch.ones(2), atol=0.03, rtol=0)


# ---- the chapter on few faces, with PCA in the place of trainings


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ask, "EDITED", 10)
        lab = short_lab(tmp_path_factory.mktemp("runs"), 160)
        model = scale.pca_model(RECIPES["celeba64"], scale.scale(lab, "celeba64"))
        lab.runs[Training("celeba64")] = SimpleNamespace(model=model, recipe=RECIPES["celeba64"],
                                                         hash="0123abcd")
        yield lab


def test_the_records_hold_every_attribute_and_every_edit(lab):
    every = ask.attributes(lab)
    assert_shows(every, Table)
    differences = every.column("difference")
    assert differences == sorted(differences, reverse=True)
    clear = sum(row["difference"] > 2 * row["±"] for row in every.rows)
    assert lab.found["probes.better"] == clear
    edits = ask.edits(lab)
    assert_shows(edits, Table)
    assert len(edits.rows) == 4 * (len(ask.steps(lab)) + 1)
    made = [row["share of own"] for row in edits.rows if row["along"] != ask.REAL]
    assert lab.found["edits.passed"] == sum(share < 0.25 for share in made)
    assert all(row["most else"] != row["edited"] for row in edits.rows)


def test_kinds_of_codes_are_compared_on_the_same_faces(lab):
    table = ask.summary(lab)
    assert_shows(table, Table)
    means = dict(zip(table.column("read from"), table.column("AUC, mean"), strict=True))
    for row in table.rows:
        if row["compared with"]:
            assert row["difference"] == pytest.approx(
                row["AUC, mean"] - means[row["compared with"]])
    assert lab.found["probes.auc_mean"] == means["the code μ"]


def test_large_models_are_asked_for(lab):
    assert {row["not trained here"] for row in ask.keep_by_beta(lab).rows} == {
        "celeba128, 5 epochs", "celeba128-b4", "celeba128-b10"}


def test_models_of_several_betas_are_compared_with_the_deviation_of_seeds(lab, monkeypatch):
    aucs = iter([0.80, 0.82, 0.85, 0.7])            # of two seeds of β = 1, of β = 4 and of 10
    monkeypatch.setattr(ask, "reading", lambda lab, few, codes: {"a": torch.full((9,), next(aucs))})
    for training in (Training("celeba128", epochs=5), Training("celeba128", 1, epochs=5),
                     Training("celeba128-b4"), Training("celeba128-b10")):
        monkeypatch.setitem(lab.runs, training, SimpleNamespace(
            model=lab.run("celeba64").model, recipe=RECIPES["celeba64"], identity={"seed": 0},
            hash="0123abcd"))
    ask.keep_by_beta(lab)
    assert lab.found["probes.b4_less_b1"] == pytest.approx(0.04, abs=1e-5)
    assert lab.found["probes.b10_less_b1"] == pytest.approx(-0.11, abs=1e-5)
    assert lab.found["probes.b4_less_b1_error"] == pytest.approx(0.02 / 2 ** 0.5 * 1.5 ** 0.5,
                                                                 rel=1e-4)
