"""What would change if: closed forms worked out by hand, the nearest of planted runs, refusals."""

import json
import math
from dataclasses import replace

import pytest
from tiny import planted

from lab import whatif
from lab.__main__ import main
from lab.files import Refused
from lab.recipes import RECIPES
from lab.whatif import BITS, DOF, KEPT, LOSS, compared

KNOWN = planted(8.0, 2.0, 0.5, 0.25)            # in all 10.75
HALF = {"bce": (dict(beta=2.0), 2, 2), "sse": (dict(beta=1.0, reconstruction="sse"), 1, 1),
        "gaussian": (dict(beta=2.0, sigma2=0.25), 2, 2)}    # σ² = ½, and a and b of a·SSE + b·KL


def asked(latent=64, beta=4.0, of="improved", **more):
    return whatif.recipe_asked(RECIPES[of], latent, beta, **more)


def trained(recipe, loss=105.6, kl=3.0, floor=100.0):
    """What is stored of a training."""
    return {"training": recipe, "recipe": recipe, "test_loss": loss, "test_kl": kl,
            "test_floor": floor}


# ---- the closed form


@pytest.mark.parametrize(("loss", "a", "b"), HALF.values(), ids=HALF)
def test_at_a_variance_of_a_half_two_directions_are_kept_or_the_one_there_is(loss, a, b):
    """As a Gaussian the model's variances are 8, 2, ½ and ½; the images' are 8, 2, ½ and ¼."""
    [row] = compared(KNOWN, asked(**loss), []).rows
    rate = 0.5 * (math.log(16) + math.log(4))
    assert row["KL"] == pytest.approx(rate) and row[DOF] == pytest.approx(15 / 16 + 3 / 4)
    assert row[LOSS] == pytest.approx(a * (2 * 0.5 + 0.75) + b * rate) and row[KEPT] == 2
    nats = sum(0.5 * math.log(2 * math.pi * model) + true / model / 2
               for model, true in ((8, 8), (2, 2), (0.5, 0.5), (0.5, 0.25)))
    assert row[BITS] == pytest.approx((nats / 4 + math.log(255)) / math.log(2))
    [row] = compared(KNOWN, asked(latent=1, **loss), []).rows
    assert row["KL"] == pytest.approx(0.5 * math.log(16)) and row[DOF] == pytest.approx(15 / 16)
    assert row[LOSS] == pytest.approx(a * (0.5 + 2.75) + b * row["KL"]) and row[KEPT] == 1


@pytest.mark.parametrize(("loss", "a", "b"), HALF.values(), ids=HALF)
def test_from_the_critical_beta_on_nothing_is_spent(loss, a, b):
    critical = 2 * a * 8.0
    below, above = (compared(KNOWN, asked(**loss | {"beta": share * critical}), [])
                    for share in (0.99, 1.01))
    assert below.rows[0]["KL"] > 0 and below.rows[0][KEPT] == 1
    assert below.caption.startswith(f"No collapse, which begins at β = {critical:g}: of 64 ")
    assert (above.rows[0]["KL"], above.rows[0][KEPT]) == (0, 0)
    assert above.rows[0][LOSS] == pytest.approx(a * 10.75)
    assert above.caption.startswith(f"Collapse: from β = {critical:g} on")


def test_the_stored_spectra_give_the_bits_and_the_collapse_that_are_known():
    rows = [whatif.what_if(reconstruction=loss).rows[0] for loss in ("sse", "bce")]
    assert [row[BITS] for row in rows] == pytest.approx([8.86, 8.38], abs=0.005)
    sse = whatif.what_if(beta=99.63, reconstruction="sse")
    assert sse.rows[0]["KL"] == pytest.approx(0.0528, abs=1e-4) and "β = 110.7:" in sse.caption
    faces = whatif.what_if(data="faces", beta=5000.0)
    assert faces.caption.startswith("Collapse: from β = 1289 on")


# ---- the nearest run


@pytest.mark.parametrize(("wanted", "name"), [
    (dict(latent=64, beta=4.0), "improved"),            # of those of β = 1 the one of least loss
    (dict(latent=128, beta=0.2), "small-sharp"), (dict(latent=128, beta=300.0), "small-mean"),
    (dict(latent=256, beta=5.0, reconstruction="sse"), "p3-conv"),
    (dict(latent=256, beta=50.0, reconstruction="sse"), "collapse-05"),
    (dict(latent=128, beta=900.0, reconstruction="sse"), "collapse-20"),
    (dict(latent=1024, beta=1.0, reconstruction="sse"), "p3-conv"),
    (dict(latent=150, beta=1.0, reconstruction="sse"), "p1-conv"),
    (dict(latent=128, beta=1.0, sigma2=0.2), "sigma-8"),
    (dict(latent=128, beta=4.0, sigma2=0.125), "sigma-2"),
    (dict(latent=256, beta=1.0, of="faces"), "celeba64")], ids=str)
def test_the_nearest_run_has_the_same_loss_and_images(wanted, name):
    """Some are there that never fit: no noise, β = 0, a learned sigma, other images."""
    names = ("fc", "improved", "small-sharp", "small-mean", "p1-conv", "p3-conv", "collapse-05",
             "collapse-20", "sigma-8", "sigma-2", "sigma-learned", "small-ae", "small-beta0",
             "celeba64", "celeba32")
    losses = {"fc": 1900.0, "small-ae": 1700.0}
    runs = [trained(each, loss=losses.get(each, 1800.0)) for each in names]
    assert whatif.nearest(asked(**wanted), runs)["training"] == name


def test_a_run_stands_beside_the_closed_form_of_its_own_recipe():
    """At σ² = ¼ three directions are kept, at ½ ln(32 · 8 · 2) nats, and the error is 1."""
    table = compared(KNOWN, asked(), [trained("improved")])
    mine, closed, run = table.rows
    rate = 0.5 * math.log(512)
    assert (mine["latent"], mine["β"], mine["σ²"]) == (64, 4, 1)
    assert (closed["latent"], closed["β"], closed["σ²"]) == (128, 1, 0.25)
    assert closed[LOSS] == pytest.approx(2 + rate) and closed["KL"] == pytest.approx(rate)
    assert run[LOSS] == pytest.approx(5.6) and (run["KL"], run[KEPT]) == (3.0, None)
    assert ("improved (latent 128, β = 1): its loss is 0.5 (9 %) above the closed form of its own "
            "recipe, and its KL is 0.1 (4 %) below it.") in table.caption
    assert whatif.APPROXIMATE in table.caption
    squares = compared(KNOWN, asked(reconstruction="sse"), [trained("collapse-20", floor=0.0)])
    assert "and its KL is 3.0 above it." in squares.caption
    assert whatif.APPROXIMATE not in squares.caption


def test_trainings_of_an_older_notebook_of_no_recipe_or_of_another_size_are_skipped():
    old = [{"training": "improved", "recipe": "improved", "epochs": 10}, trained("long-gone")]
    table = compared(KNOWN, asked(), old)
    assert len(table.rows) == 1 and table.caption.endswith(whatif.ALONE)
    assert len(compared(KNOWN, asked(), [*old, trained("fc")]).rows) == 3
    sizes = [trained(name) for name in ("celeba32", "celeba64", "celeba128")]
    assert whatif.nearest(asked(of="faces", reconstruction="sse"), sizes) is None


# ---- refused, and the command


@pytest.mark.parametrize(("wrong", "named"), [
    (dict(latent=0), "latent = 0"), (dict(latent=2.5), "latent = 2.5"), (dict(beta=0.0), "beta"),
    (dict(beta=-1.0), "beta = -1"), (dict(beta=math.inf), "beta = inf"),
    (dict(beta=math.nan), "beta = nan"), (dict(sigma2=0.0), "sigma2 = 0"),
    (dict(data="mnist"), "'mnist'"), (dict(reconstruction="mae"), "'mae'"),
    (dict(latent=1000, beta=0.05), "only 384 eigenvalues")], ids=str)
def test_what_is_senseless_or_not_stored_is_refused_in_one_sentence(wrong, named):
    with pytest.raises(Refused, match=named) as caught:
        whatif.what_if(**wrong)
    assert "\n" not in str(caught.value)


def test_what_is_proposed_instead_of_too_small_a_beta_is_not_refused():
    cut = replace(KNOWN, eigenvalues=KNOWN.eigenvalues[:2])
    with pytest.raises(Refused, match="at most 2 dimensions, or for a beta above 8.08"):
        compared(cut, asked(latent=3, beta=7.9), [])
    for fine in (dict(latent=2, beta=7.9), dict(latent=3, beta=8.08)):
        assert compared(cut, asked(**fine), []).rows


def test_the_command_prints_the_table_and_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"trainings": [trained("improved", 1817.3, 46.1, 1681.7)]}))
    monkeypatch.setattr("lab.runs.RESULTS", path)
    assert main(["what-if", "--latent", "64", "--beta", "4"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "of 64 dimensions 22 are used" in out and "its loss is 11.5 (9 %) above" in out
    assert "asked for, closed form 64 4 1 188.6 12.97 12.4 22 9.34" in out
    assert out.endswith("nearest run, measured 128 1 0.25 135.6 46.10")
    assert main(["what-if", "--data", "faces", "--sigma2", "0.5", "--reconstruction", "sse"]) == 0
    assert whatif.ALONE in " ".join(capsys.readouterr().out.split())
    assert main(["what-if", "--beta", "0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: beta = 0 has no optimum") and error.count("\n") == 1
