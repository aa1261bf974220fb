"""The notebook's object: images, trainings by their key, what is worked out once, figures."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import EARLY, TEST, TINY, job

from data import Splits
from lab import notebook
from lab.notebook import Lab, called, needs, once
from lab.recipes import RECIPES, TRAININGS, Training
from vae_helpers import as_pixels, reconstruction_error

QUICK = {"EPOCHS": 1, "TRAIN_LIMIT": 40, "DATA": "standin", "DEVICE": "cpu", "PRECISION": "fp32"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A notebook's object on drawn images and no trained run; these jobs stand for trainings."""
    def made(jobs=None, **changes):
        lab = Lab({**QUICK, "RUNS": str(tmp_path), **changes})
        if jobs:
            monkeypatch.setattr(lab, "job", lambda training: jobs[Training(training) if isinstance(
                training, str) else training])
            for recipe in (TINY, EARLY):
                monkeypatch.setitem(RECIPES, recipe.name, recipe)
        return lab
    return made


# ---- where figures go


@pytest.mark.parametrize("left_out", [None, "p1-fc"])
@pytest.mark.parametrize(("changed", "real", "folder"), [
    ({}, (True, True), "figures"),                              # a full run on real images
    ({}, (True, False), "elsewhere/figures"),                   # one set drawn
    ({"epochs": 1}, (True, True), "elsewhere/figures"),         # papermill -p EPOCHS 1
    ({"seed": 5}, (True, True), "elsewhere/figures"),
    ({"setting": "p1-fc"}, (True, True), "elsewhere/figures"),
    ({"extensions": True, "data": "real", "device": "cpu", "precision": "fp32"}, (True, True),
     "figures"),
    ({"epochs": 1, "figures": "asked/for"}, (True, True), "asked/for")], ids=str)
def test_only_full_runs_on_real_images_write_to_figures(
        changed, real, folder, left_out, monkeypatch):
    sets = [Splits(SimpleNamespace(real=each), None, SimpleNamespace(real=each)) for each in real]
    monkeypatch.setattr(Lab, "cifar", sets[0])
    monkeypatch.setattr(Lab, "faces", sets[1])
    monkeypatch.setattr(Lab, "finished", lambda lab, training: training.name != left_out)
    settings = {name.upper(): value for name, value in {"runs": "elsewhere", **changed}.items()}
    whole = left_out is None or "extensions" in changed or "figures" in changed
    assert Lab(settings).folder.as_posix() == (folder if whole else "elsewhere/figures")


# ---- images


def test_images_are_read_once_and_stop_a_training_where_one_is_stopped(here):
    lab = here()
    assert lab.cifar is lab.splits("fc") is lab.cifar
    assert lab.cifar.heldout is None and len(lab.cifar.train) == 40
    stopping = lab.splits("p1-fc")
    assert len(stopping.train) == 32 and len(stopping.heldout) == 8
    assert lab.faces.train.name == "celeba"
    banner = lab.banner()
    assert "stand-in" in banner.caption and lab.folder.as_posix() in banner.caption
    assert [row["images"] for row in banner.rows] == [40, 100, 40, 100]


# ---- trainings


def test_job_is_that_of_the_parameters(here):
    lab = here(SEED=3, FC_EPOCHS=2)
    fc, other = lab.job("fc"), lab.job(Training("celeba128", 2, epochs=5))
    assert (fc.recipe, fc.epochs, fc.seed, fc.precision) == (RECIPES["fc"], 2, 3, "fp32")
    assert (other.recipe.name, other.epochs, other.seed) == ("celeba128", 1, 5)
    assert fc.splits is lab.cifar and lab.job(Training("fc", permuted=True)).splits is lab.permuted


def test_every_training_is_another_one(here):
    lab = here(EPOCHS=2)
    assert len({lab.job(training).folder for training in TRAININGS}) == len(TRAININGS)
    assert len({called(training) for training in TRAININGS}) == len(TRAININGS)
    assert called(Training("conv", 1, 30, True)) == "conv, permuted, 30 epochs, seed 1"


def test_optional_training_waits_for_extensions(here, tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "TRAININGS", [Training("tiny"), Training("tiny", 1)])
    jobs = {Training("tiny"): job(tmp_path), Training("tiny", 1): job(tmp_path, seed=1)}
    lab = here(jobs)
    assert not lab.has("tiny") and lab.seeds("tiny") == []
    extended = here(jobs, EXTENSIONS=True)
    [run] = extended.seeds("tiny")                      # a shortened run trains one seed
    assert run.trained_here and len(run.history) == TINY.epochs
    jobs[Training("tiny", 1)].train()                   # and uses what lies there
    loaded, other = lab.seeds("tiny")
    assert not loaded.trained_here and lab.run("tiny") is loaded and other.identity["seed"] == 1
    assert lab.runs == {Training("tiny"): loaded, Training("tiny", 1): other}
    assert here(jobs, EXTENSIONS=True, EPOCHS=0, TRAIN_LIMIT=0).has("tiny", 1)


def test_what_is_needed_and_absent_is_named_with_its_minutes(here, tmp_path, monkeypatch):
    took = [{"recipe": "tiny", "epochs": QUICK["EPOCHS"], "minutes": 3.0, "images": 35,
             "device": "CPU", "precision": "fp32"}]
    (tmp_path / "results.json").write_text(json.dumps({"trainings": took}))
    monkeypatch.setattr("lab.runs.RESULTS", tmp_path / "results.json")
    jobs = {Training("tiny"): job(tmp_path), Training("early", 1): job(tmp_path, EARLY, seed=1)}

    @needs("tiny", Training("early", 1))
    def shown(lab, n, more=0):
        return n + more + len(lab.run("tiny").history)

    jobs[Training("early", 1)].train()
    [row] = shown(here(jobs), 1).rows
    assert row["not trained here"] == "tiny" and row["minutes of the committed run"] == 3
    assert shown(here(jobs, EXTENSIONS=True), 1, more=2) == 3 + TINY.epochs


def test_no_image_is_read_to_say_that_a_training_is_absent(here, tmp_path):
    lab = here()
    table = lab.absent(Training("celeba128", epochs=5))
    assert "128" in table.column("not trained here")[0] and not lab.has("celeba128", epochs=5)
    assert not lab.kept


def test_what_is_asked_for_twice_is_worked_out_once_for_each_key(here):
    asked = []

    @once
    def length(lab, name, times):
        asked.append(name)
        return len(name) * times

    one, other = here(), here()
    assert [length(one, "abc", 2), length(one, "abc", 2), length(one, "d", 2)] == [6, 6, 2]
    assert length(other, "abc", 2) == 6 and asked == ["abc", "d", "abc"]


def test_codes_are_those_of_a_part_of_the_images_that_the_recipe_is_of(here):
    lab = here()
    run, stops = lab.run("fc"), lab.run("p1-fc")
    mu, logvar = lab.codes(run)
    assert lab.codes(run)[0] is mu
    assert torch.equal(mu, notebook.encode_set(run.model, lab.cifar.test.images)[0])
    assert (len(lab.codes(run, "train")[0]), len(lab.codes(stops, "train")[0])) == (40, 32)


def test_trainings_say_what_was_used(here, tmp_path):
    lab = here({Training("early"): job(tmp_path, EARLY, seed=2, test=TEST)})
    run = lab.train("early")
    [kept], [row] = lab.trainings(), lab.log().rows
    assert kept["training"] == "early" and kept["recipe"] == "early" and kept["seed"] == 2
    assert kept["run"] == run.hash and kept["chosen"] == run.chosen["epoch"]
    assert kept["epochs"] == len(run.history) and kept["images"] == 35
    assert json.loads(json.dumps(kept)) == kept and row["test KL"] == run.chosen["test_kl"]
    assert (kept["test_loss"], kept["test_kl"]) == (run.chosen["test_loss"], run.chosen["test_kl"])
    assert kept["test_floor"] == 0                          # of squared error


@pytest.mark.parametrize("name", ["conv", "p1-conv", "sigma-8"])
def test_the_floor_of_a_loss_is_that_of_the_test_images_themselves(here, name):
    lab, recipe = here(), RECIPES[name]
    x = as_pixels(lab.splits(recipe).test.images).clamp(1e-6, 1 - 1e-6)
    loss = reconstruction_error(recipe, torch.logit(x), x).double().mean().item()
    assert lab.test_floor(recipe) == pytest.approx(loss, rel=1e-4, abs=0.1)
    assert lab.test_floor(RECIPES["sigma-learned"]) is None
