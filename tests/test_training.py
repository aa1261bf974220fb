"""Training: one objective, knobs that act, early stopping, and runs that survive being stopped in any way."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import data
import vae_helpers as helpers
import vae_measures as measures
from vae_helpers import Recipe, build, elbo_terms, train

pytestmark = pytest.mark.usefixtures("one_thread")       # as in the processes started here
ROOT = Path(__file__).parents[1]
TINY = Recipe("tiny", side=8, widths=(4, 8), latent=3, batch=10, epochs=4)
EARLY = TINY.but(name="early", reconstruction="sse", norm=False, patience=1, min_delta=0.0, lr=1e-2, epochs=8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def image_set(images, seed=0):
    return data.image_set(name="cifar10", split="train", images=images, labels=torch.zeros(len(images)).long(),
                          label_names=("noise",), source=f"noise of seed {seed}", real=False)


def noise_images(n=35, side=8, seed=0):
    """Blotches: each image has a colour of its own, so that there is something to learn."""
    colour = torch.randint(40, 216, (n, 3, 1, 1), generator=generator(seed))
    grain = torch.randint(-20, 21, (n, 3, side, side), generator=generator(seed + 1))
    return image_set((colour + grain).to(torch.uint8), seed)


IMAGES, HELDOUT, TEST = noise_images(), noise_images(20, seed=5), noise_images(15, seed=8)


@pytest.fixture
def run_tiny(tmp_path):
    def run(recipe=TINY, images=IMAGES, runs="runs", precision="fp32", device="cpu", **more):
        if recipe.patience:
            more = {"heldout": HELDOUT, **more}
        return train(recipe, images, runs=tmp_path / runs, device=device, precision=precision, **more)
    return run


@pytest.fixture
def trained(monkeypatch):
    """The epochs that are really trained from here on."""
    epochs, original = [], helpers.train_epoch

    def train_epoch(*arguments, epoch, **more):
        epochs.append(epoch)
        return original(*arguments, epoch=epoch, **more)

    monkeypatch.setattr(helpers, "train_epoch", train_epoch)
    return epochs


def state(folder, name="state.pt"):
    return torch.load(folder / name, weights_only=True)


def without_times(history):
    return [{k: v for k, v in h.items() if k not in ("seconds", "images_per_second")} for h in history]


def assert_identical(one, other):
    """Two folders of a run hold the same: every tensor of model and optimizer, every number of the history."""
    names = sorted(p.name for p in one.glob("*.pt"))
    assert names == sorted(p.name for p in other.glob("*.pt")) and "state.pt" in names
    for name in names:
        a, b = state(one, name), state(other, name)
        assert without_times(a.pop("history", [])) == without_times(b.pop("history", []))
        assert flat(a).keys() == flat(b).keys()
        for key, value in flat(a).items():
            assert torch.equal(value, flat(b)[key]) if isinstance(value, torch.Tensor) else value == flat(b)[key], key
    assert not list(one.glob("*.tmp")) and not list(other.glob("*.tmp"))


def flat(value, path=""):
    """Nested dictionaries and lists as one dictionary from path to leaf."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    if not isinstance(value, (dict, list, tuple)):
        return {path: value}
    return {name: leaf for key, part in items for name, leaf in flat(part, f"{path}/{key}").items()}


# ---------------------------------------------------------------- one step, one epoch


class Recorder(torch.optim.SGD):
    """Plain gradient descent, whose steps show the gradient, and the rates that it was given."""

    def __init__(self, model, lr=1.0):
        super().__init__([{"params": list(model.parameters()), "share": 1.0}], lr=lr)
        self.rates = []

    def step(self):
        self.rates.append(self.param_groups[0]["lr"])
        super().step()


def one_epoch(recipe, images=IMAGES, epoch=1, epochs=1, seed=0):
    """The record of an epoch of gradient descent, how far it moved the weights, and the rates used."""
    model = build(recipe)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimizer = Recorder(model)
    record = helpers.train_epoch(model, optimizer, images.images, seed=seed, epoch=epoch, epochs=epochs,
                                 precision="fp32", tick=lambda text: None, folder=Path("nowhere"))
    return record, torch.cat([p.detach().flatten() for p in model.parameters()]) - before, optimizer.rates


def gradient(recipe):
    """That of the loss over all images in one batch."""
    recipe = recipe.but(batch=len(IMAGES), lr=1e-4)
    return -one_epoch(recipe)[1].double() / 1e-4


@pytest.mark.parametrize("recipe", [TINY, TINY.but(norm=False, reconstruction="sse", beta=3)], ids=["bce", "sse"])
def test_an_epochs_record_is_the_mean_over_images_also_with_a_ragged_last_batch(recipe):
    standing = recipe.but(lr=1e-30)                             # 10 + 10 + 10 + 5 images, weights as they are
    record, moved, rates = one_epoch(standing)
    assert moved.abs().max() < 1e-20 and len(rates) == 4
    model = build(standing).train()
    order = torch.randperm(35, generator=helpers.generator("cpu", 0, 1, "order"))
    noise = helpers.generator("cpu", 0, 1, "noise")
    losses = []
    for index in order.split(10):
        eps = torch.randn(len(index), 3, generator=noise)
        losses.append(elbo_terms(model, IMAGES.images[index] / 255, eps).loss(recipe.beta).detach())
    assert record["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)
    assert record["loss"] == pytest.approx(record["reconstruction"] + recipe.beta * record["kl"])
    assert abs(sum(part.mean() for part in losses) / 4 - torch.cat(losses).mean()) > 1e-4 * record["loss"]


def test_gradient_is_that_of_the_mean_loss():
    recipe = TINY.but(norm=False)
    model, order = build(recipe), torch.randperm(35, generator=helpers.generator("cpu", 0, 1, "order"))
    eps = torch.randn(35, 3, generator=helpers.generator("cpu", 0, 1, "noise"))
    for i, e in zip(order, eps, strict=True):                   # one image at a time: their gradients add up
        (elbo_terms(model, IMAGES.images[i: i + 1] / 255, e[None]).loss(1.0) / 35).backward()
    known = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    found = gradient(recipe)
    assert (found - known).norm() < 2e-3 * known.norm()


def test_gradient_is_linear_in_beta():
    recipe = TINY.but(norm=False)
    without, once, thrice = (gradient(recipe.but(beta=beta)) for beta in (0, 1, 3))
    kl = once - without
    assert kl.norm() > 0.1
    assert (thrice - without - 3 * kl).norm() < 0.02 * kl.norm()


def test_clip_bounds_the_length_of_a_step_and_keeps_its_direction():
    recipe = TINY.but(norm=False)
    free = gradient(recipe)
    for clip in (0.1, 0.3):
        clipped = gradient(recipe.but(clip=clip))
        assert clipped.norm().item() == pytest.approx(clip, rel=0.02) and free.norm() > 10 * clip
        assert torch.nn.functional.cosine_similarity(clipped, free, dim=0) > 0.999
    assert (gradient(recipe.but(clip=1e6)) - free).norm() < 1e-6 * free.norm()


@pytest.mark.parametrize(("batch", "steps"), [(1, 35), (10, 4), (35, 1), (1000, 1)])
def test_batch_sets_the_number_of_steps(batch, steps):
    assert len(one_epoch(TINY.but(batch=batch, norm=False, lr=1e-6))[2]) == steps


def test_adams_first_step_has_the_length_of_the_learning_rate(run_tiny):
    start = build(EARLY).to_mu.bias
    for lr in (1e-3, 2e-3):
        run = run_tiny(EARLY.but(patience=0, lr=lr, batch=35, epochs=1))
        assert (run.model.to_mu.bias - start).abs().tolist() == pytest.approx([lr] * 3, rel=1e-3)


def test_linear_path_learns_at_its_share_of_the_rate():
    model = build(TINY.but(start="linear", linear_lr=0.1, lr=1e-3))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = helpers.make_optimizer(model)
    helpers.train_epoch(model, optimizer, IMAGES.images[:10], seed=0, epoch=1, epochs=1, precision="fp32",
                        tick=lambda text: None, folder=Path("nowhere"))
    longest = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    for name in ("linear_in.weight", "linear_out.weight", "linear_out.bias", "to_mu.weight", "to_logvar.bias"):
        assert longest[name] == pytest.approx(1e-4 if name.startswith("linear") else 1e-3, rel=1e-2)


def test_order_and_noise_differ_between_epochs_and_seeds_and_repeat():
    def record(**key):
        return one_epoch(TINY.but(lr=1e-30), **{"epochs": 9, **key})[0]["loss"]

    losses = [record(epoch=1), record(epoch=2), record(seed=1)]
    assert len(set(losses)) == 3
    assert losses == [record(epoch=1), record(epoch=2), record(seed=1)]


def test_every_image_is_seen_once_an_epoch(monkeypatch):
    seen, original = [], helpers.pixels

    def pixels(recipe, images, index, device):
        seen.append(index)
        return original(recipe, images, index, device)

    monkeypatch.setattr(helpers, "pixels", pixels)
    one_epoch(TINY)
    assert sorted(torch.cat(seen).tolist()) == list(range(35)) != torch.cat(seen).tolist()


# ---------------------------------------------------------------- schedules and stopping


def test_one_cycle_rises_to_its_peak_at_three_tenths_and_falls_to_nothing():
    recipe = TINY.but(schedule="onecycle", lr=0.02)
    rates = [helpers.learning_rate(recipe, i / 1000) for i in range(1001)]
    assert rates[0] == pytest.approx(0.04 * 0.02) and rates[1000] == pytest.approx(0, abs=1e-12)
    assert max(rates) == rates[300] == pytest.approx(0.02)
    assert rates[150] == pytest.approx(0.52 * 0.02) and rates[650] == pytest.approx(0.01)   # half-way up, half-way down
    assert all(a < b for a, b in zip(rates[:300], rates[1:301], strict=True))
    assert all(a > b for a, b in zip(rates[300:-1], rates[301:], strict=True))
    assert {helpers.learning_rate(TINY, done / 10) for done in range(11)} == {TINY.lr}


def test_each_step_uses_the_scheduled_rate():
    recipe = TINY.but(schedule="onecycle", lr=1e-6)
    rates = [rate for epoch in (1, 2, 3) for rate in one_epoch(recipe, epoch=epoch, epochs=3)[2]]
    assert rates == [helpers.learning_rate(recipe, step / 12) for step in range(12)]
    assert one_epoch(TINY.but(lr=1e-6))[2] == [1e-6] * 4


@pytest.mark.parametrize(("losses", "stops"), [
    ([100, 99, 98, 97, 96, 95, 94, 93], None),                  # still falling
    ([100, 101, 102, 103, 104], None),                          # four epochs without gain
    ([100, 101, 102, 103, 104, 105], 6),                        # five
    ([100, 99.6, 99.7, 99.8, 99.6, 99.5], 6),                   # falls by half a nat or less are no gain
    ([100, 99.6, 99.4, 99.9, 99.9, 99.9, 99.9], None),          # small falls that add up are one
    ([100, 99.6, 99.4, 99.9, 99.9, 99.9, 99.9, 99.9], 8),
    ([100, 101, 101, 101, 101, 99, 101, 101, 101, 101], None),  # a gain starts the count anew
    ([100, float("nan"), 100, 100, 100, 100], 6)])
def test_early_stopping_waits_five_epochs_for_half_a_nat(losses, stops):
    recipe = helpers.RECIPES["p1-conv"]
    assert (recipe.patience, recipe.min_delta) == (5, 0.5)
    found = next((n for n in range(1, len(losses) + 1) if helpers.stop_early(recipe, losses[:n])), None)
    assert found == stops


def test_no_patience_never_stops():
    assert not helpers.stop_early(TINY, [1.0, 2.0, 3.0] * 10)


def test_early_stopping_keeps_the_best_weights_and_the_last(run_tiny):
    run = run_tiny(EARLY.but(lr=0.1, epochs=40, patience=3))
    losses = run.curve("heldout_loss")
    assert len(losses) < 40 and losses.index(min(losses)) < len(losses) - 1
    assert run.chosen is run.history[losses.index(min(losses))]

    def heldout_loss(weights):
        model = build(run.recipe)
        model.load_state_dict(weights)
        return helpers.summary(run.recipe, helpers.evaluate(model, HELDOUT.images))["loss"]

    assert heldout_loss(run.model.state_dict()) == heldout_loss(state(run.folder, "best.pt")["model"]) == min(losses)
    assert heldout_loss(state(run.folder)["model"]) == losses[-1] > min(losses)


def test_what_stops_early_needs_a_heldout_set():
    with pytest.raises(ValueError, match="^early stops early, so it needs a held-out set$"):
        train(EARLY, IMAGES)


# ---------------------------------------------------------------- a run


def test_history_has_every_promised_field(run_tiny):
    run = run_tiny(heldout=HELDOUT, test=TEST)
    assert [h["epoch"] for h in run.history] == [1, 2, 3, 4]
    for record in run.history:
        assert record.keys() == {"epoch", "seconds", "images_per_second", "device"} | {
            prefix + term for prefix in ("", "heldout_", "test_") for term in ("loss", "reconstruction", "kl")}
        assert record["images_per_second"] == pytest.approx(35 / record["seconds"]) and record["seconds"] > 0
        assert record["device"] == "CPU, 1 threads"
    assert json.loads((run.folder / "history.json").read_text()) == run.history == state(run.folder)["history"]
    assert run.last["loss"] < run.history[0]["loss"]
    kept = json.loads((run.folder / "run.json").read_text())
    assert kept["identity"] == run.identity and kept["torch"] == torch.__version__ and len(kept["helpers"]) == 8


@pytest.mark.parametrize("beta", [0, 1, 7])
def test_training_heldout_and_test_have_one_objective(run_tiny, beta):
    recipe = TINY.but(beta=beta, norm=False, noise=True, batch=35, lr=1e-30, epochs=1)
    run = run_tiny(recipe, heldout=IMAGES, test=HELDOUT)
    for prefix in ("", "heldout_", "test_"):
        loss, reconstruction, kl = (run.last[prefix + term] for term in ("loss", "reconstruction", "kl"))
        assert loss == pytest.approx(reconstruction + beta * kl) and kl > 0
    assert run.last["heldout_kl"] == pytest.approx(run.last["kl"], rel=1e-5)        # the same images and weights
    assert run.last["heldout_reconstruction"] == pytest.approx(run.last["reconstruction"], rel=1e-2)


def test_heldout_and_test_change_nothing_where_nothing_is_chosen(run_tiny):
    assert_same_weights(run_tiny(runs="a"), run_tiny(runs="b", heldout=HELDOUT, test=TEST))


def assert_same_weights(*runs):
    first, *rest = (run.model.state_dict() for run in runs)
    assert all(torch.equal(first[name], other[name]) for other in rest for name in first)


def test_finished_run_is_loaded_not_trained(run_tiny, trained):
    first = run_tiny(EARLY)
    assert trained == first.curve("epoch")
    trained.clear()
    again = run_tiny(EARLY)
    assert first.trained_here and not again.trained_here and not trained
    assert "trained here" in repr(first) and "loaded" in repr(again)
    assert again.history == first.history and not again.model.training
    assert_same_weights(first, again)


def test_training_leaves_the_global_random_numbers_alone(run_tiny):
    torch.manual_seed(3)
    known = torch.rand(4)
    torch.manual_seed(3)
    build(TINY), run_tiny(EARLY, test=TEST), helpers.seconds_per_image(TINY, 100, device="cpu", precision="fp32")
    assert torch.equal(torch.rand(4), known)


def test_global_random_numbers_leave_training_alone(run_tiny):
    first = run_tiny(runs="a")
    torch.manual_seed(99)
    assert_same_weights(first, run_tiny(runs="b"))


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="^tiny takes images of 3x8x8, not 3x4x4$"):
        train(TINY, noise_images(side=4))


def test_seconds_per_image_are_those_of_a_training(run_tiny):
    """The same up to what a busy machine does to milliseconds: seconds per batch or per epoch would be further off."""
    estimate = helpers.seconds_per_image(TINY, len(IMAGES), device="cpu", precision="fp32")
    measured = min(h["seconds"] for h in run_tiny().history) / len(IMAGES)
    assert 1 / 9 < estimate / measured < 9


# ---------------------------------------------------------------- the linear optimum


def gaussian_images(variances, n=2000):
    """Floats (n, 3, 2, 2) around 0 whose variance along random axes is as given."""
    axes = torch.linalg.qr(torch.randn(12, 12, generator=generator(1))).Q[: len(variances)]
    spread = torch.tensor(variances).sqrt()
    return (torch.randn(n, len(variances), generator=generator()) * spread @ axes).view(n, 3, 2, 2)


@pytest.mark.parametrize(("changes", "active"), [
    (dict(reconstruction="sse"), 3), (dict(reconstruction="sse", beta=3), 2),
    (dict(reconstruction="gaussian", sigma=0.5), 4)], ids=["sse", "beta-3", "gaussian"])
def test_trained_linear_vae_reaches_the_linear_optimum(changes, active):
    """Loss, rate, distortion, active units and posterior variances, from the covariance alone."""
    recipe = Recipe("linear", network="fc", widths=(), side=2, latent=4, link="identity", batch=1000, lr=0.05,
                    schedule="onecycle", **changes)
    x = gaussian_images([8.0, 2.0, 1.0, 0.3, 0.1])
    optimum = measures.linear_optimum(measures.spectrum(x), recipe.sigma2, latent=4)
    assert optimum.active == active
    model, draw, steps = build(recipe), generator(3), 1000
    optimizer = helpers.make_optimizer(model)
    for step in range(steps):
        index = torch.randint(len(x), (recipe.batch,), generator=draw)
        loss = elbo_terms(model, x[index], torch.randn(recipe.batch, 4, generator=draw)).loss(recipe.beta).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = helpers.learning_rate(recipe, step / steps)
        optimizer.step()
    with torch.no_grad():
        terms = [elbo_terms(model, x, torch.randn(len(x), 4, generator=draw)) for _ in range(20)]
    constant = 12 * (math.log(0.5) + 0.5 * math.log(2 * math.pi)) if recipe.sigma else 0.0
    distortion = (torch.cat([t.reconstruction for t in terms]).mean().item() - constant) / recipe.sse_weight
    rate = terms[0].kl.sum(1).mean().item()
    least = optimum.loss(recipe.sse_weight, recipe.beta)
    assert recipe.sse_weight * distortion + recipe.beta * rate == pytest.approx(least, rel=3e-3)
    assert rate == pytest.approx(optimum.rate, rel=0.01) and distortion == pytest.approx(optimum.distortion, rel=0.01)
    assert measures.active_units(terms[0].kl) == active
    variances = model.encode(x)[1].exp().mean(0).sort().values
    assert variances[:active].tolist() == pytest.approx(sorted(optimum.variances.tolist()), rel=0.05)


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize("changes", [dict(recipe=TINY.but(**{field: value})) for field, value in [
    ("name", "other"), ("latent", 4), ("widths", (4, 6)), ("norm", False), ("beta", 2), ("noise", False), ("batch", 11),
    ("lr", 2e-3), ("schedule", "onecycle"), ("clip", 1), ("reconstruction", "sse"), ("network", "fc"), ("patience", 2)]]
    + [dict(seed=1), dict(epochs=5), dict(precision="bf16"), dict(images=noise_images(seed=1)),
       dict(images=noise_images(34))], ids=lambda c: str(list(c)))
def test_whatever_decides_the_result_decides_the_folder(changes):
    usual = dict(recipe=TINY, images=IMAGES, heldout=None, seed=0, epochs=4, precision="fp32")
    folder = helpers.run_folder("runs", helpers.run_identity(**usual))
    assert folder != helpers.run_folder("runs", helpers.run_identity(**{**usual, **changes}))
    assert folder == helpers.run_folder("runs", helpers.run_identity(**usual))


def test_heldout_set_is_part_of_a_run_that_stops_by_it_and_of_no_other():
    def folder(recipe, heldout):
        return helpers.run_folder("runs", helpers.run_identity(recipe, IMAGES, heldout, 0, 4, "fp32"))

    assert folder(EARLY, HELDOUT) != folder(EARLY, TEST)
    assert folder(TINY, HELDOUT) == folder(TINY, None)


def test_whole_numbers_for_reals_are_one_run():
    one, other = (helpers.run_identity(TINY.but(beta=beta), IMAGES, None, 0, 4, "fp32") for beta in (4, 4.0))
    assert helpers.run_hash(one) == helpers.run_hash(other)


def test_folder_is_named_by_recipe_epochs_and_hash_and_not_by_device(run_tiny):
    run = run_tiny(device="auto" if not torch.cuda.is_available() else "cpu", epochs=2)
    assert run.folder.name == f"tiny-2-{run.hash}" and "device" not in run.identity
    assert len(run.hash) == 8 and int(run.hash, 16) >= 0


# ---------------------------------------------------------------- stopped and continued


class Killed(BaseException):
    """Stands for the end of the process: nothing in the program catches it."""


@pytest.mark.parametrize("recipe", [
    TINY.but(epochs=2), EARLY.but(epochs=3),
    TINY.but(epochs=2, start="linear", schedule="onecycle", residual=1, activation="silu")],
    ids=["all-epochs", "early-stopping", "linear-start"])
def test_run_that_dies_at_any_write_ends_bit_identical(run_tiny, monkeypatch, recipe):
    """At every file that a run writes, before it is renamed and after."""
    whole, replace, deaths = run_tiny(recipe, runs="whole"), os.replace, 0
    for after in (False, True):
        for last in range(1, 100):
            writes = iter(range(1, 1000))

            def dies(source, target, last=last, after=after, writes=writes):
                here = next(writes) == last
                if not here or after:
                    replace(source, target)
                if here:
                    raise Killed

            monkeypatch.setattr(os, "replace", dies)
            try:
                run_tiny(recipe, runs=f"{after}-{last}")
                break                                           # fewer writes than `last`: all have been tried
            except Killed:
                deaths += 1
            monkeypatch.setattr(os, "replace", replace)
            again = run_tiny(recipe, runs=f"{after}-{last}")
            assert_identical(again.folder, whole.folder)
            assert_same_weights(again, whole)
    assert deaths >= 2 * (1 + 2 * 2)                            # run.json, then state and history an epoch


def test_run_that_dies_within_an_epoch_ends_bit_identical(run_tiny, monkeypatch):
    whole, terms, steps = run_tiny(runs="whole"), helpers.elbo_terms, []

    def dies(*arguments):
        steps.append(1)
        if len(steps) in (3, 9, 12):
            raise Killed
        return terms(*arguments)

    monkeypatch.setattr(helpers, "elbo_terms", dies)
    for _ in range(3):
        with pytest.raises(Killed):
            run_tiny()
    assert_identical(run_tiny().folder, whole.folder)


@pytest.mark.parametrize("recipe", [TINY, EARLY.but(epochs=4, patience=4)], ids=["all-epochs", "early-stopping"])
def test_longer_run_begins_from_a_shorter_one_and_ends_as_if_it_had_not(run_tiny, trained, recipe):
    whole = run_tiny(recipe, runs="whole")
    for epochs in (1, 2):
        run_tiny(recipe, epochs=epochs)
    trained.clear()
    longer = run_tiny(recipe)
    assert trained == [3, 4]
    assert_identical(longer.folder, whole.folder)
    assert_same_weights(longer, whole)


@pytest.mark.parametrize("changes", [dict(recipe=TINY.but(schedule="onecycle")), dict(seed=1), dict(precision="bf16"),
                                     dict(recipe=TINY.but(beta=2)), dict(images=noise_images(seed=1))],
                         ids=["onecycle", "seed", "precision", "beta", "images"])
def test_nothing_is_borrowed_from_a_run_that_differs_or_depends_on_its_length(run_tiny, trained, changes):
    recipe = TINY.but(schedule=changes.get("recipe", TINY).schedule)
    run_tiny(recipe, epochs=2)
    trained.clear()
    run_tiny(**{"recipe": recipe, **changes})
    assert trained == [1, 2, 3, 4]


def test_shorter_run_never_takes_a_longer_ones_weights(run_tiny):
    longer, shorter = run_tiny(), run_tiny(epochs=1)
    assert len(shorter.history) == 1 and without_times(shorter.history) == without_times(longer.history[:1])
    assert_same_weights(shorter, run_tiny(epochs=1, runs="alone"))


def test_checkpoints_load_as_weights_only(run_tiny):
    run = run_tiny(EARLY)
    assert set(state(run.folder)) == {"model", "optimizer", "history"}
    assert set(state(run.folder, "best.pt")) == {"model"}


DAMAGES = {"truncated": lambda whole: whole[: len(whole) // 2], "empty": lambda whole: b"",
           "nonsense": lambda whole: b"PK" * 99}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["state.pt", "best.pt"])
def test_damaged_checkpoint_is_one_sentence_that_names_it(run_tiny, name, damage):
    file = run_tiny(EARLY).folder / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError) as refusal:
        run_tiny(EARLY)
    message = str(refusal.value)
    assert message.startswith(f"{file} is damaged") and message.endswith("delete its folder to train this run anew")
    assert "\n" not in message


class FullDisk:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        self.file.write(bytes(content[: self.room]))
        if len(content) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(content)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1000])
def test_full_disk_keeps_the_last_epoch_and_leaves_nothing_half_written(run_tiny, trained, monkeypatch, tmp_path, room):
    def disk(path, mode="r", **more):
        file = open(path, mode, **more)
        return FullDisk(file, room) if 3 in trained and mode == "wb" else file

    monkeypatch.setattr(helpers, "open", disk, raising=False)
    with pytest.raises(OSError, match="No space left on device") as failure:
        run_tiny()
    folder = next((tmp_path / "runs").glob("tiny-*"))
    assert str(failure.value).startswith(f"{folder / 'state.pt'} could not be written")
    assert trained == [1, 2, 3] and len(state(folder)["history"]) == 2 and not list(folder.glob("*.tmp"))
    monkeypatch.undo()
    assert_identical(run_tiny().folder, run_tiny(runs="whole").folder)


def test_failing_flush_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "kept.json"
    helpers.write_json(file, {"epoch": 1})

    def fails(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="what was there before is kept"):
        helpers.write_json(file, {"epoch": 2})
    assert json.loads(file.read_text()) == {"epoch": 1} and os.listdir(tmp_path) == ["kept.json"]


def test_half_written_files_of_a_killed_process_are_removed(run_tiny):
    folder = run_tiny(epochs=2).folder
    (folder / "state.pt").unlink()
    (folder / "state.pt.123.tmp").write_bytes(b"half")
    run_tiny(epochs=2)
    assert sorted(p.name for p in folder.iterdir()) == ["history.json", "lock", "run.json", "state.pt"]


# ---------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("term", ["reconstruction", "KL"])
def test_non_finite_loss_names_epoch_batch_and_term_and_keeps_the_epoch_before(run_tiny, monkeypatch, tmp_path, term):
    calls, original = [], helpers.elbo_terms

    def spoilt(*arguments):
        terms = original(*arguments)
        calls.append(1)
        if len(calls) == 4 + 3:                                 # the second epoch's third batch
            getattr(terms, term.lower()).data.view(-1)[0] = math.nan
        return terms

    monkeypatch.setattr(helpers, "elbo_terms", spoilt)
    with pytest.raises(helpers.NonFinite) as stop:
        run_tiny()
    monkeypatch.undo()
    assert f"tiny: the {term} is not finite in epoch 2, batch 3; " in str(stop.value)
    folder = next((tmp_path / "runs").glob("tiny-*"))
    assert f"{folder} keeps epoch 1" in str(stop.value) and len(state(folder)["history"]) == 1
    assert_identical(run_tiny().folder, run_tiny(runs="whole").folder)      # and nothing of the bad epoch stays


def test_diverging_training_stops_by_itself(run_tiny):
    with pytest.raises(helpers.NonFinite, match="is not finite in epoch 1, batch 2"):
        run_tiny(TINY.but(lr=1e30, norm=False))


def test_weights_spoilt_by_an_epochs_last_batch_are_not_kept(run_tiny, tmp_path):
    with pytest.raises(helpers.NonFinite, match="not finite after the last batch of epoch 1"):
        run_tiny(TINY.but(lr=1e38, norm=False, batch=35), heldout=HELDOUT)
    assert not list(tmp_path.rglob("state.pt"))


# ---------------------------------------------------------------- real processes


RUN = ("p1-fc", "--limit", "400", "--epochs", "6", "--data", "standin", "--device", "cpu")


def command(runs, precision):
    return [sys.executable, str(ROOT / "vae_helpers.py"), *RUN, "--runs", str(runs), "--precision", precision]


def start(runs, precision):
    """The command line in a process of its own, its lines readable one by one."""
    def hear_interruptions():                              # which a shell's background jobs are born deaf to
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(command(runs, precision), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, cwd=runs,
                            preexec_fn=None if os.name == "nt" else hear_interruptions)


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the process ended before it printed {text!r}: {process.stderr.read()}")


def headless(runs, precision):
    return helpers.main(command(runs, precision)[2:])


@pytest.fixture(scope="module")
def splits():
    return helpers.load_splits(helpers.RECIPES["p1-fc"], limit=400, source="standin")


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_killed_run_ends_bit_identical(tmp_path, splits, capsys, precision):
    """SIGKILL after the first epoch and again somewhere after the second; the parts are the whole."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    recipe = helpers.RECIPES["p1-fc"]
    for epoch, delay in ((1, 0.0), (2, 0.03)):
        process = start(killed, precision)
        wait_for(process, f"epoch  {epoch}/6")
        if epoch == 1:
            with pytest.raises(helpers.Busy, match="^another process is training .*; wait until it ends, or stop it$"):
                train(recipe, **splits, epochs=6, runs=killed, device="cpu", precision=precision)
        time.sleep(delay)
        process.kill()
        process.communicate()
        assert process.returncode not in (0, 1)
    assert 2 <= len(state(next(killed.glob("*")))["history"]) < 6
    capsys.readouterr()
    assert headless(killed, precision) == 0 == headless(whole, precision)
    resumed, straight = capsys.readouterr().out.split("images for p1-fc")[1:]
    epochs = [[line for line in text.splitlines() if line.startswith("epoch")] for text in (resumed, straight)]
    assert epochs[0] == epochs[1] and len(epochs[0]) == 6
    assert_identical(next(killed.glob("*")), next(whole.glob("*")))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_interrupted_run_keeps_its_finished_epochs(tmp_path):
    process = start(tmp_path, "fp32")
    wait_for(process, "epoch  1/6")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "stopped; finished epochs are kept, and the same command goes on from there"
    folder = next(tmp_path.glob("*"))
    assert 1 <= len(state(folder)["history"]) < 6 and not list(folder.glob("*.tmp"))


def test_folder_has_one_holder_at_a_time(tmp_path):
    with helpers.only_process(tmp_path):
        with pytest.raises(helpers.Busy, match="another process is training"), helpers.only_process(tmp_path):
            raise AssertionError("held twice")
    with helpers.only_process(tmp_path):
        pass
