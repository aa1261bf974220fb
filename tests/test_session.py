"""The notebook's session: where figures go, what is trained, and what is kept of it."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import EARLY, TINY, job

from data import Splits
from lab.recipes import RECIPES, Settings
from lab.session import Lab
from lab.show import Table
from vae_helpers import new_figure

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"EPOCHS": 1, "TRAIN_LIMIT": 40, "DATA": "standin", "DEVICE": "cpu", "PRECISION": "fp32"}


@pytest.fixture
def here(tmp_path):
    """A session on drawn images and no trained run, with these trainings beyond the default."""
    def session(jobs=None, **changes):
        made = Lab({**QUICK, "RUNS": str(tmp_path), **changes})
        made.__dict__.update({"wanted": jobs} if jobs else {})
        return made
    return session


# ---- where figures go


def pretending(real, **settings):
    """A session whose sets are said to be real or drawn; they are not read."""
    made = Lab({name.upper(): value for name, value in settings.items()})
    for name, each in zip(("cifar", "faces"), real, strict=True):
        made.__dict__[name] = Splits(SimpleNamespace(real=each), None, SimpleNamespace(real=each))
    return made


@pytest.mark.parametrize(("changed", "real", "folder"), [
    ({}, (True, True), "figures"),                              # a full run on real images
    ({}, (True, False), "elsewhere/figures"),                   # one set drawn
    ({}, (False, True), "elsewhere/figures"),
    ({"epochs": 1}, (True, True), "elsewhere/figures"),         # papermill -p EPOCHS 1
    ({"conv_epochs": 3}, (True, True), "elsewhere/figures"),
    ({"celeba_epochs": 3}, (True, True), "elsewhere/figures"),
    ({"train_limit": 100}, (True, True), "elsewhere/figures"),
    ({"extensions": True}, (True, True), "figures"),
    ({"epochs": 1, "figures": "asked/for"}, (True, True), "asked/for")], ids=str)
def test_only_full_runs_on_real_images_write_to_figures(changed, real, folder):
    here = pretending(real, runs="elsewhere", **changed)
    assert here.gallery.folder.as_posix() == folder


def test_figures_and_results_lie_in_one_folder(here, tmp_path):
    session = here()
    session.found.add("a.number", 1.5, "nats")
    session.figure(new_figure()[0], "empty", "Nothing.")
    assert isinstance(session.write(), Table)
    names = sorted(p.name for p in (tmp_path / "figures").iterdir())
    assert names == ["01-empty.png", "results.json"]
    results = json.loads((tmp_path / "figures" / "results.json").read_text())
    assert results["findings"]["a.number"]["value"] == 1.5 and results["trainings"] == []


# ---- images


def test_images_are_read_once_and_stop_a_training_where_one_is_stopped(here):
    session = here()
    assert session.cifar is session.splits(RECIPES["fc"]) is session.cifar
    assert session.cifar.heldout is None and len(session.cifar.train) == 40
    stopping = session.splits(RECIPES["p1-fc"])
    assert len(stopping.train) == 32 and len(stopping.heldout) == 8
    assert session.faces.heldout is not None and session.faces.train.name == "celeba"


def test_permuted_images_are_the_same_pixels_in_another_order(here):
    session = here()
    before, after = session.cifar.train.images, session.permuted.train.images
    assert not torch.equal(before, after)
    assert torch.equal(before.flatten(2).sort(2).values, after.flatten(2).sort(2).values)


def test_banner_says_that_images_are_drawn_and_where_figures_go(here, tmp_path):
    banner = here().banner()
    assert "stand-in" in banner.caption and str(tmp_path / "figures") in banner.caption
    assert [row["images"] for row in banner.rows] == [40, 100, 40, 100]


# ---- trainings


def test_job_is_that_of_the_parameters(here):
    session = here(SEED=3, FC_EPOCHS=2)
    fc, other = session.job("fc"), session.job(RECIPES["fc"].but(latent=4), seed=2, epochs=7)
    assert (fc.recipe, fc.epochs, fc.seed, fc.precision) == (RECIPES["fc"], 2, 3, "fp32")
    assert (other.recipe.latent, other.epochs, other.seed) == (4, 7, 5)
    assert fc.splits is session.cifar and session.job("fc", session.permuted) != fc


@pytest.fixture
def tiny(tmp_path):
    return job(tmp_path)


def test_optional_training_waits_for_extensions(here, tiny):
    session = here({"tiny": tiny})
    assert session.optional("tiny") is None and session.runs == {}
    trained = here({"tiny": tiny}, EXTENSIONS=True).optional("tiny")
    assert trained.trained_here and len(trained.history) == TINY.epochs
    loaded = session.optional("tiny")
    assert loaded is not None and not loaded.trained_here
    assert session.optional("tiny") is loaded is session.runs["tiny"]


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """What the committed notebook's trainings took, by what results.json says of them."""
    took = [{"recipe": name, "epochs": epochs, "minutes": 3.0} for name, epochs in
            (("tiny", 4), ("fc-wide", 4), ("small", 1))]
    (tmp_path / "results.json").write_text(json.dumps({"trainings": took}))
    monkeypatch.setattr("lab.runs.RESULTS", tmp_path / "results.json")
    monkeypatch.setattr("lab.runs.say_what_it_took", lambda *_: None)


def test_what_is_absent_says_how_long_the_committed_training_took(here, tiny, committed):
    [row] = here({"tiny": tiny}).absent("tiny").rows
    assert row["training"] == "tiny" and row["minutes of the committed run"] == 3


def test_early_stopped_training_is_no_longer_optional(here, tmp_path):
    stops = job(tmp_path, EARLY)
    assert len(stops.train().history) < EARLY.epochs
    assert here({"early": stops}).optional("early").chosen["epoch"] < EARLY.epochs


def test_plan_counts_by_chapter_what_is_there_and_what_is_to_come(
        here, monkeypatch, tmp_path, committed):
    monkeypatch.setattr(Lab, "DEFAULT", ("small", "fc"))
    wide = job(tmp_path, TINY.but(name="fc-wide"))
    session = here({"fc-wide": wide})
    before = {(row["trainings of"], row["trained"]): row for row in session.plan().rows}
    assert before["Task 1", "EXTENSIONS"]["finished"] == 0 < before["Task 1", "EXTENSIONS"][
        "minutes to go"]
    wide.train(), session.train("fc", log=False)
    rows = {(row["trainings of"], row["trained"]): row for row in session.plan().rows}
    for by, label in (("EXTENSIONS", "fc-wide"), ("always", "fc")):
        row = rows["Task 1", by]
        assert row["which"] == label and row["number"] == row["finished"] == 1
        assert row["minutes to go"] == 0 < row["minutes taken"]
    assert rows["Theory", "always"]["finished"] == 0 < rows["Theory", "always"]["minutes to go"]
    assert rows["**in all**", "always"]["minutes to go"] == rows["Theory", "always"][
        "minutes to go"] and rows["**in all**", "always"]["number"] == 2
    assert session.plan()._repr_markdown_()


def test_trainings_say_what_was_used(here, tmp_path):
    session = here({"early": job(tmp_path, EARLY, seed=2)}, EXTENSIONS=True)
    run = session.optional("early")
    [kept] = session.trainings()
    assert kept["training"] == "early" and kept["recipe"] == "early" and kept["seed"] == 2
    assert kept["run"] == run.hash and kept["chosen"] == run.chosen["epoch"]
    assert kept["epochs"] == len(run.history) and kept["images"] == 35
    assert json.loads(json.dumps(kept)) == kept


def test_every_wanted_training_is_another_one(here):
    session = here(EPOCHS=2)
    folders = [wanted.folder for wanted in session.wanted.values()]
    folders += [session.job(name).folder for name in Lab.DEFAULT]
    assert len(set(folders)) == len(folders)
    assert {"conv, permuted", "fc, permuted", "fc, seed 1", "conv, seed 1", "fc-wide",
            "fc-pca, permuted", "conv, 6 epochs", "sprint, seed 1",
            "p1-fc, seed 1", "celeba128, half", "celeba128, seed 1", "celeba64-d128",
            "sigma-learned"} < session.wanted.keys()


def test_a_shortened_run_trains_fewer_seeds(here):
    short, full = here(EPOCHS=2).wanted, here(EPOCHS=0, TRAIN_LIMIT=0).wanted
    assert "fc, seed 2" in full and "fc, seed 2" not in short
    assert "fc, seed 1" in short


def test_settings_are_checked_at_once():
    with pytest.raises(ValueError, match="EPOCHS"):
        Lab({"EPOCHS": -1})
    assert Lab({}).settings == Settings()
