"""The comparison of settings: scripted losses, planted curves, weights of another epoch."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest
import torch
from tiny import LINEAR, assert_shows, generator, put_linear

from data import ImageSet, Splits
from lab import linear as pca
from lab import runs
from lab.chapters import sweep as ask
from lab.chapters.ledger import CLAIMS
from lab.files import Damaged, read_state, write_state
from lab.recipes import RECIPES
from lab.session import Lab
from lab.show import Figure, Table, finite
from vae_helpers import as_pixels, build, elbo_terms

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = [90.0, 85.0, 80.0, 79.8, 79.6, 79.9, 81.0, 79.7, 60.0]     # five epochs without gain: 8


def session(folder, **more):
    return Lab({"TRAIN_LIMIT": 160, "DATA": "standin", "DEVICE": "cpu", "PRECISION": "fp32",
                "RUNS": str(folder / "runs"), "FIGURES": str(folder / "figures")} | more)


class Judged:
    """Measures nothing but that it was asked."""

    def measure(self, images):
        return {"kid": images.mean().item(), "blur": None}


def chapter_of(lab, **known):
    """A chapter that knows only these runs."""
    chapter = ask.Chapter(lab, Judged())
    chapter.__dict__["runs"] = {name.replace("_", "-"): run for name, run in known.items()}
    return chapter


# ---- early stopping


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """A training whose held-out losses are given, and the weights that it had after each epoch."""
    lab, kept, left = session(tmp_path_factory.mktemp("scripted")), [], list(SCRIPT)

    def evaluated(model, record, folder):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        record["heldout_loss"] = left.pop(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "check_epoch", evaluated)
        run = lab.job("p1-conv", epochs=len(SCRIPT)).train()
    return lab, run, kept


def test_a_training_stops_when_it_has_waited_and_has_the_weights_of_its_best_epoch(scripted):
    _, run, kept = scripted
    assert len(run.history) == len(kept) == 8           # nothing after epoch 3 gains half a nat
    weights = run.model.state_dict()
    assert all(torch.equal(weights[name], kept[4][name]) for name in weights)
    assert not all(torch.equal(weights[name], kept[7][name]) for name in weights)


def test_the_table_shows_the_epoch_whose_weights_are_kept(scripted):
    lab, run, _ = scripted
    row = chapter_of(lab, p1_conv=run).losses().rows[0]
    assert (row["epochs"], row["best epoch"]) == (8, 5)
    assert row["held-out loss"] == min(SCRIPT[:8]) == 79.6
    assert row["test loss"] == run.history[4]["test_loss"]
    assert lab.found["sweep.p1_conv.loss"] == 79.6


def made_run(losses, test, training=None):
    """A run of these held-out, test and training losses, without a model."""
    history = [{"epoch": i, "heldout_loss": h, "test_loss": t, "loss": n, "test_kl": 1.0}
               for i, (h, t, n) in enumerate(zip(losses, test, training or test, strict=True), 1)]
    best = min(history, key=lambda h: h["heldout_loss"])
    return SimpleNamespace(history=history, chosen=best, last=history[-1],
                           curve=lambda key: [h[key] for h in history])


def test_the_rise_is_that_of_the_test_loss_after_the_best_epoch():
    assert ask.rise_after_best(made_run([9, 5, 6, 7], [9, 6, 8, 7])) == 2
    assert ask.rise_after_best(made_run([9, 5, 6, 7], [9, 6, 5, 4])) == 0
    assert ask.rise_after_best(made_run([9, 5, 4], [3, 2, 8])) == 0         # the best is the last


def test_the_gap_is_beyond_what_the_sets_differ_by_for_a_linear_model():
    linear = ask.Linear(70.0, 71.0, 70.5, None)
    numbers = ask.numbers_of(made_run([9, 5, 6], [80, 75, 78], [82, 74, 73]), linear)
    assert numbers["gap"] == pytest.approx(0.5) and numbers["gap_at_stop"] == pytest.approx(4.5)
    assert numbers["above_pca"] == 4.5 and numbers["training_above_pca"] == 4
    assert (numbers["epochs"], numbers["best"]) == (3, 2)


# ---- steadiness


def test_a_planted_oscillation_is_as_unsteady_as_it_is_wide():
    fall = [100 - 0.7 * i for i in range(20)]
    waves = [loss + 0.4 * (-1) ** i for i, loss in enumerate(fall)]
    assert ask.unsteadiness(fall) == pytest.approx(0, abs=1e-12)
    steps = 15
    assert ask.unsteadiness(waves) == pytest.approx(
        0.8 * math.sqrt((steps ** 2 - 1) / (steps * (steps - 1))))


def test_what_happens_before_the_sixth_epoch_is_not_unsteadiness():
    calm = [80 - 0.1 * i for i in range(10)]
    assert ask.unsteadiness([300, 120, 250, 99] + calm) == pytest.approx(0, abs=1e-12)
    assert ask.unsteadiness([1.0, 2, 3, 4, 5, 6]) is None          # one step
    assert ask.unsteadiness([1.0, 2, 3, 4, 5, 6, 9]) == pytest.approx(math.sqrt(2))


# ---- the linear model


def exact_loss(model, images):
    """The loss of a linear VAE, exactly: its squared error is quadratic in the noise, so draws of
    ±sqrt(d) along each axis have the mean of all noise."""
    d, x = model.recipe.latent, as_pixels(images)
    corners = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)])
    losses = [elbo_terms(model, x, eps.expand(len(x), d)).loss(1.0).double() for eps in corners]
    return torch.stack(losses).mean().item()


@pytest.fixture(scope="module")
def planted():
    """Images of a Gaussian with three strong directions, split in unequal sets, and their axes."""
    draw = generator(3)
    basis = torch.linalg.qr(torch.randn(48, 3, generator=draw)).Q * torch.tensor([2.4, 2.0, 0.4])
    x = 0.5 + torch.randn(900, 3, generator=draw) @ basis.T / 2
    x = x + 0.02 * torch.randn(x.shape, generator=draw)
    images = (255 * x).round().clamp(0, 255).to(torch.uint8).view(-1, 3, 4, 4)
    sets = Splits(*(ImageSet(
        name="cifar10", split="train", images=part, labels=torch.zeros(len(part)).long(),
        label_names=("",), source="made", real=False) for part in images.split([500, 100, 300])))
    return sets, ask.axes_of(sets, top=48)


def test_the_linear_models_losses_are_those_of_a_linear_vae_on_each_set(planted):
    sets, axes = planted
    linear = axes.linear(LINEAR)
    assert linear.best.active == 2                              # 0.2² is below one half
    best = pca.linear_vae_parameters(axes.known, LINEAR.sigma2, LINEAR.latent)
    model = put_linear(build(LINEAR), best)
    with torch.no_grad():
        for loss, each in zip(linear, sets, strict=False):
            assert loss == pytest.approx(exact_loss(model, each.images), rel=1e-5)
        assert linear.train == pytest.approx(linear.best.loss(), rel=1e-6)
        model.to_mu.weight.mul_(1.1)                            # any other has more on these images
        assert exact_loss(model, sets.train.images) > linear.train + 1e-3


def test_what_is_best_for_the_training_images_is_not_for_the_others(planted):
    sets, axes = planted
    own = ask.axes_of(Splits(sets.test, sets.heldout, sets.test), top=48).linear(LINEAR)
    assert own.train < axes.linear(LINEAR).test


# ---- weights by name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The chapter in short, all of it trained, and one training that is not stopped early."""
    lab = session(tmp_path_factory.mktemp("sweep"), EPOCHS=1, EXTENSIONS=True)
    on = RECIPES["p1-fc"].but(name=ask.ON, patience=40)
    lab.wanted.makers.setdefault(ask.ON, lambda: lab.job(on))
    made = ask.Chapter(lab, Judged())
    assert made.runs.keys() >= {*ask.LABELS, ask.FACES, *ask.AGAIN, ask.ON}
    return made


@pytest.fixture(scope="module")
def absent(tmp_path_factory):
    return ask.Chapter(session(tmp_path_factory.mktemp("absent")), Judged())


def test_weights_that_are_loaded_by_name_give_the_loss_that_is_stored_with_them(trained):
    again = ask.Chapter(Lab({"TRAIN_LIMIT": 160, "DATA": "standin", "DEVICE": "cpu", "EPOCHS": 1,
                             "PRECISION": "fp32", "RUNS": trained.lab.settings.runs}), Judged())
    assert again.runs.keys() >= trained.runs.keys() - {ask.ON}
    assert again.runs["p2-conv"].recipe is RECIPES["p2-conv"]
    for label, loss in again.loaded.items():
        assert loss == pytest.approx(again.runs[label].chosen["heldout_loss"], rel=1e-6)
    assert again.lab.found["sweep.loaded.off"] < 1e-6


def test_weights_of_another_training_under_this_name_are_refused(trained):
    run, other = trained.runs["p2-conv"], trained.runs["p2-conv, seed 1"]
    heldout = trained.lab.splits(run.recipe).heldout
    path, whole = run.folder / "state.pt", (run.folder / "state.pt").read_bytes()
    try:
        path.write_bytes((other.folder / "state.pt").read_bytes())
        with pytest.raises(Damaged, match=re.escape("state.pt")):
            trained.lab.job("p2-conv").train()
        path.write_bytes(whole)                 # signed as this run's, with weights that are not
        kept = read_state(path, run.identity)
        with torch.no_grad():
            kept["best"] = {name: value + 0.05 for name, value in kept["best"].items()}
        write_state(path, run.identity, **kept)
        swapped = trained.lab.job("p2-conv").train()
        with pytest.raises(ValueError, match="stored with them") as refused:
            ask.heldout_loss(swapped, heldout)
        assert str(run.folder) in str(refused.value)
    finally:
        path.write_bytes(whole)
    assert ask.heldout_loss(trained.lab.job("p2-conv").train(), heldout) > 0


def test_noise_that_cannot_be_drawn_again_is_allowed_for(trained):
    run = trained.runs["p2-conv"]
    heldout, stored = trained.lab.splits(run.recipe).heldout, run.chosen["heldout_loss"]

    def stored_as(loss, device):
        run.history = [h | {"heldout_loss": loss, "device": device} for h in run.history]
        return run

    kept = run.history
    try:
        assert ask.heldout_loss(stored_as(1.003 * stored, "Tesla T4"), heldout) > 0
        for loss, device in ((1.003, "CPU, 2 threads"), (1.01, "Tesla T4")):
            with pytest.raises(ValueError):
                ask.heldout_loss(stored_as(loss * stored, device), heldout)
    finally:
        run.history = kept


# ---- the chapter


TABLES, FIGURES = ("losses", "rankings", "random_path"), ("curves", "by_name")


@pytest.mark.parametrize("name", TABLES + FIGURES)
def test_everything_shows_itself_on_few_images(trained, name):
    assert_shows(getattr(trained, name)(), Table if name in TABLES else Figure)
    assert all(finite(value) is not None for value in trained.lab.found.values())


@pytest.mark.parametrize("name", TABLES + FIGURES)
def test_without_trainings_everything_shows_what_is_missing(absent, name):
    shown = getattr(absent, name)()
    assert isinstance(shown, Table) and "not trained here" in shown._repr_markdown_()
    assert not absent.lab.found


def test_a_training_that_is_not_stopped_stands_in_the_tables_and_the_curves(trained):
    assert trained.rankings().rows[-1]["training"] == ask.ON
    panel = trained._panel(["p1-fc", "p1-fc, seed 1", ask.ON])
    assert list(panel["curves"]) == ["fc", "fc, seed 1", "fc, not stopped"]
    assert panel["claimed"] == {"fc": (40, 80.7)}
    assert math.isfinite(trained.lab.found["sweep.margin.stopped"])


def test_what_is_not_trained_has_a_row_of_gaps(trained):
    lab = session(trained.lab.gallery.folder, EPOCHS=1)
    some = chapter_of(lab, p1_conv=trained.runs["p1-conv"], p1_fc=trained.runs["p1-fc"])
    rows = {row["training"]: row for row in some.losses().rows}
    assert rows["p1-conv"]["test loss"] > 0
    missing = rows["p2-fc: not trained here"]
    assert missing["test loss"] is None and missing["claimed loss"] == 78.2
    ranked = {row["training"]: row for row in some.rankings().rows}
    assert ranked["*two seeds apart, fc*"]["test loss"] is None
    assert isinstance(some.curves(), Figure) and isinstance(some.by_name(), Figure)
    assert "not trained here" in some.random_path()._repr_markdown_()
    assert "sweep.margin.test_loss" not in lab.found


def test_margins_are_means_over_seeds_and_negative_where_a_claim_fails(trained):
    chapter = chapter_of(session(trained.lab.gallery.folder, EPOCHS=1))
    losses = {"p1-conv": 75, "p2-conv": 74, "p3-conv": 76, "p1-fc": 84, "p2-fc": 80, "p3-fc": 79}
    kids = {"p1-conv": 2, "p2-conv": 2, "p3-conv": 2, "p1-fc": 4, "p2-fc": 3, "p3-fc": 3.2}
    made = {"epochs": 20, "loss": 70, "unsteady": 0.2, "rise": 0.1}
    chapter.__dict__["numbers"] = {
        label: made | {"test_loss": loss} for label, loss in losses.items()} | {
        "p1-fc, seed 1": made | {"test_loss": 85, "unsteady": 0.6},
        ask.ON: made | {"test_loss": 82, "rise": 0.3}}
    chapter.__dict__["kids"] = kids
    chapter.__dict__["runs"] = dict.fromkeys(chapter.numbers)
    chapter._decide()
    found = chapter.lab.found
    assert found["sweep.margin.test_loss"] == 3                 # p3: 79 less 76
    assert found["sweep.margin.epochs"] == 0
    assert found["sweep.margin.stopped"] == 2
    assert found["sweep.rise"] == 0.3 and found["sweep.spread.loss_fc"] == 0
    assert found["sweep.margin.improved"] == 1                  # p2's 80 less p3's 79
    assert found["sweep.margin.coherent"] == pytest.approx(0.2)
    assert found["sweep.margin.unsteady_fc"] == pytest.approx(0.2)      # mean of 0.2 and 0.6
    assert found["sweep.range.test_loss_fc"] == 5.5 and found["sweep.range.kid_conv"] == 0
    assert chapter.spread("test_loss", "fc") == 1 and chapter.spread("test_loss", "conv") is None


def test_all_that_claims_ask_of_the_sweep_is_found(trained):
    trained.losses(), trained.rankings(), trained.random_path()
    asked = {name for claim in CLAIMS for name in claim.names if name.startswith("sweep.")}
    late = {name for name in asked if "unsteady" in name}       # of more than six epochs
    assert asked and asked - late <= trained.lab.found.keys()


def test_names_of_findings():
    assert ask.key_of("p1-conv, seed 1") == "p1_conv_seed1"
    assert all(label in RECIPES for label in ask.LABELS)
    assert ask.AGAIN == ("p1-conv, seed 1", "p1-fc, seed 1", "p2-conv, seed 1", "p2-fc, seed 1")


def test_a_random_path_begins_and_ends_with_draws_and_is_straight():
    model = build(RECIPES["p2-conv"]).eval()
    codes, frames = ask.random_paths(model, 3, seed=0, steps=5)
    assert codes.shape == (3, 5, 128) and frames.shape == (3, 5, 3, 32, 32)
    assert torch.allclose(codes[:, 2], (codes[:, 0] + codes[:, 4]) / 2, atol=1e-6)
    assert torch.equal(torch.cat([codes[:, 0], codes[:, 4]]), ask.draw_prior(6, 128, 0))
