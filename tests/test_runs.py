"""Jobs and runs: what decides a run, what it keeps, and that it survives being stopped anyhow."""

import dataclasses
import errno
import json
import math
import os
import platform
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny import (
    EARLY,
    HELDOUT,
    IMAGES,
    TEST,
    TINY,
    assert_identical,
    assert_same_weights,
    job,
    noise_images,
    run,
    state,
    without_times,
)

import lab.files
import lab.runs
import vae_helpers
from data import load_splits
from lab.__main__ import main
from lab.files import Busy, run_folder, run_hash, run_identity
from lab.recipes import RECIPES
from lab.runs import Job
from lab.training import NonFinite, evaluate, seconds_per_image, summary
from vae_helpers import Recipe, build

pytestmark = pytest.mark.usefixtures("one_thread")       # as in the processes started here
ROOT = Path(__file__).parents[1]


@pytest.fixture
def trained(monkeypatch):
    """The epochs that are really trained from here on."""
    epochs, original = [], lab.runs.train_epoch

    def train_epoch(*arguments, epoch, **more):
        epochs.append(epoch)
        return original(*arguments, epoch=epoch, **more)

    monkeypatch.setattr(lab.runs, "train_epoch", train_epoch)
    return epochs


# ---- a run


def test_history_has_every_promised_field(tmp_path):
    done = run(tmp_path, heldout=HELDOUT, test=TEST)
    assert [h["epoch"] for h in done.history] == [1, 2, 3, 4]
    terms = {prefix + term for prefix in ("", "heldout_", "test_")
             for term in ("loss", "reconstruction", "kl")}
    for record in done.history:
        assert record.keys() == terms | {"epoch", "seconds", "images_per_second", "device"}
        assert record["images_per_second"] == pytest.approx(35 / record["seconds"])
        assert record["seconds"] > 0 and record["device"] == "CPU, 1 threads"
    assert done.last["loss"] < done.history[0]["loss"]
    assert done.history == state(done.folder)["history"]
    assert done.history == json.loads((done.folder / "history.json").read_text())


def test_run_says_how_it_was_made_and_by_which_versions(tmp_path):
    kept = json.loads((run(tmp_path).folder / "run.json").read_text())
    assert kept == {"identity": job(tmp_path).identity, "torch": torch.__version__,
                    "python": platform.python_version()}


@pytest.mark.parametrize("beta", [0, 1, 7])
def test_training_heldout_and_test_have_one_objective(tmp_path, beta):
    standing = TINY.but(beta=beta, norm=False, batch=35, lr=1e-30, epochs=1)
    last = run(tmp_path, standing, heldout=IMAGES, test=HELDOUT).last
    for prefix in ("", "heldout_", "test_"):
        loss, error, kl = (last[prefix + term] for term in ("loss", "reconstruction", "kl"))
        assert loss == pytest.approx(error + beta * kl) and kl > 0
    assert last["heldout_kl"] == pytest.approx(last["kl"], rel=1e-5)    # same images and weights
    assert last["heldout_reconstruction"] == pytest.approx(last["reconstruction"], rel=1e-2)


def test_heldout_and_test_change_nothing_where_nothing_is_chosen(tmp_path):
    alone = run(tmp_path / "a")
    assert_same_weights(alone, run(tmp_path / "b", heldout=HELDOUT, test=TEST))


def test_finished_run_is_loaded_not_trained(tmp_path, trained):
    first = run(tmp_path, EARLY)
    assert trained == first.curve("epoch")
    trained.clear()
    again = run(tmp_path, EARLY)
    assert first.trained_here and not again.trained_here and not trained
    assert "trained here" in repr(first) and "loaded" in repr(again)
    assert again.history == first.history and not again.model.training
    assert_same_weights(first, again)


def test_training_leaves_the_global_random_numbers_alone(tmp_path):
    torch.manual_seed(3)
    known = torch.rand(4)
    torch.manual_seed(3)
    run(tmp_path, EARLY, test=TEST), job(tmp_path, wanted="auto").minutes_left
    seconds_per_image(TINY, torch.device("cpu"), "fp32")
    assert torch.equal(torch.rand(4), known)


def test_global_random_numbers_leave_training_alone(tmp_path):
    first = run(tmp_path / "a")
    torch.manual_seed(99)
    assert_same_weights(first, run(tmp_path / "b"))


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="tiny.*3x8x8.*3x4x4"):
        job("runs", train=noise_images(side=4))


def test_what_stops_early_needs_a_heldout_set():
    with pytest.raises(ValueError, match="early.*held-out"):
        Job(EARLY, job("runs").splits)


# ---- early stopping


@pytest.fixture
def stopped(tmp_path):
    """A run that ended before its last epoch, after its best one."""
    done = run(tmp_path, EARLY.but(lr=0.1, epochs=40, patience=3))
    losses = done.curve("heldout_loss")
    assert len(losses) < 40 and losses.index(min(losses)) < len(losses) - 1
    return done


def test_early_stopping_keeps_the_best_weights_and_the_last(stopped):
    losses = stopped.curve("heldout_loss")

    def heldout_loss(weights):
        model = build(stopped.recipe)
        model.load_state_dict(weights)
        return summary(stopped.recipe, evaluate(model, HELDOUT.images))["loss"]

    best = state(stopped.folder, "best.pt")["model"]
    assert heldout_loss(stopped.model.state_dict()) == heldout_loss(best) == min(losses)
    assert heldout_loss(state(stopped.folder)["model"]) == losses[-1] > min(losses)


def test_early_stopped_run_shows_the_epoch_whose_weights_it_has(stopped):
    losses = stopped.curve("heldout_loss")
    assert stopped.chosen is stopped.history[losses.index(min(losses))] is not stopped.last
    assert f"{stopped.chosen['loss']:.1f}" in repr(stopped)
    assert f"{stopped.chosen['loss']:.1f}" != f"{stopped.last['loss']:.1f}"
    assert f"{len(losses)} epochs (best: {stopped.chosen['epoch']})" in repr(stopped)


def test_run_of_all_its_epochs_has_the_last_ones_weights(tmp_path):
    done = run(tmp_path, heldout=HELDOUT)
    assert done.chosen is done.last and "best" not in repr(done)


def test_early_stopped_run_is_finished_and_no_minute_is_left(stopped, trained):
    again = job(stopped.folder.parent, stopped.recipe)
    assert again.finished and again.minutes_left == 0 and len(again.history) < again.epochs
    assert not again.train().trained_here and not trained


def test_minutes_left_go_by_the_runs_own_pace(tmp_path):
    whole = job(tmp_path)
    assert not whole.finished and whole.history == [] and whole.minutes_left > 0
    half = run(tmp_path, epochs=2)
    longer = job(tmp_path, epochs=4)
    longer.folder.mkdir()
    lab.files.write_state(longer.folder / "state.pt", longer.identity, model={},
                          optimizer={}, history=half.history)
    assert longer.minutes_left == pytest.approx(2 * half.pace / 60) and not longer.finished
    assert half.pace == pytest.approx(min(half.curve("seconds")))      # the lower of the two
    assert half.seconds == pytest.approx(2 * half.pace)


# ---- identity

CHANGES = [("name", "other"), ("latent", 4), ("widths", (4, 6)), ("norm", False), ("beta", 2),
           ("noise", False), ("batch", 11), ("lr", 2e-3), ("schedule", "onecycle"), ("clip", 1),
           ("reconstruction", "sse"), ("network", "fc"), ("patience", 2)]


def identity(recipe=TINY, train=IMAGES, heldout=None, seed=0, epochs=4, precision="fp32"):
    return run_identity(recipe, train, heldout, seed, epochs, precision)


@pytest.mark.parametrize("changes", [
    *(dict(recipe=TINY.but(**{field: value})) for field, value in CHANGES),
    dict(seed=1), dict(epochs=5), dict(precision="bf16"), dict(train=noise_images(seed=1)),
    dict(train=noise_images(34))], ids=lambda c: str(list(c)))
def test_whatever_decides_the_result_decides_the_folder(changes):
    assert run_folder("runs", identity()) == run_folder("runs", identity())
    assert run_folder("runs", identity()) != run_folder("runs", identity(**changes))


def test_heldout_set_is_part_of_a_run_that_stops_by_it_and_of_no_other():
    assert run_hash(identity(EARLY, heldout=HELDOUT)) != run_hash(identity(EARLY, heldout=TEST))
    assert identity(heldout=HELDOUT) == identity()


def test_whole_numbers_for_reals_are_one_run():
    assert run_hash(identity(TINY.but(beta=4))) == run_hash(identity(TINY.but(beta=4.0)))


def test_a_new_field_is_in_the_identity_only_where_it_is_not_its_default():
    @dataclass(frozen=True)
    class Later(Recipe):
        dropout: float = 0.0

    fields = dataclasses.asdict(TINY)
    assert identity(Later(**fields)) == identity()
    assert run_hash(identity(Later(**fields))) == run_hash(identity())
    with_it = identity(Later(**fields, dropout=0.5))
    assert with_it["recipe"].pop("dropout") == 0.5 and with_it == identity()


def test_folder_is_named_by_recipe_epochs_and_hash_and_not_by_device(tmp_path):
    done = run(tmp_path, device="auto" if not torch.cuda.is_available() else "cpu", epochs=2)
    assert done.folder.name == f"tiny-2-{done.hash}" and "device" not in done.identity
    assert len(done.hash) == 8 and int(done.hash, 16) >= 0


# ---- precision


@pytest.fixture
def machine(monkeypatch):
    """A CPU that has or lacks bf16, and the precision that a measurement on it gives."""
    measured = []

    def has(there, faster="bf16"):
        monkeypatch.setattr(lab.runs, "has_bf16", lambda device: there)
        monkeypatch.setattr(lab.training, "has_bf16", lambda device: there)
        monkeypatch.setattr(lab.runs, "measured_precision",
                            lambda device: (measured.append(1), faster)[1])
        return measured

    return has


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_auto_is_the_precision_that_one_measurement_found_faster(tmp_path, machine, faster):
    measured = machine(True, faster)
    runs = tmp_path / "new"
    assert job(runs, wanted="auto").precision == faster and len(measured) == 1
    machine(True, {"bf16": "fp32", "fp32": "bf16"}[faster])
    assert job(runs, EARLY, wanted="auto").precision == faster and len(measured) == 1
    kept = json.loads((runs / "machine.json").read_text())
    assert list(kept.values()) == [faster] and torch.__version__ in next(iter(kept))


@pytest.mark.parametrize("content", ["", "[]", "{}", "nonsense"])
def test_a_measurement_that_cannot_be_read_is_made_anew(tmp_path, machine, content):
    measured = machine(True)
    (tmp_path / "machine.json").write_text(content)
    assert job(tmp_path, wanted="auto").precision == "bf16" and len(measured) == 1
    assert job(tmp_path, wanted="auto").precision == "bf16" and len(measured) == 1


def test_auto_is_fp32_where_there_are_no_instructions(tmp_path, machine):
    measured = machine(False)
    assert job(tmp_path, wanted="auto").precision == "fp32" and not measured
    assert job(tmp_path, device="cpu", wanted="auto").train().precision == "fp32"


@pytest.mark.parametrize("begun", ["fp32", "bf16"])
@pytest.mark.parametrize("faster", ["fp32", "bf16"])
def test_auto_goes_on_in_the_precision_of_a_run_that_is_there(tmp_path, machine, begun, faster):
    measured = machine(True, faster)
    done = run(tmp_path, wanted=begun)
    again = job(tmp_path, wanted="auto")
    assert again.precision == begun and again.finished and again.folder == done.folder
    assert not measured


def test_training_in_bf16_without_instructions_is_refused_but_a_finished_run_loads(
        tmp_path, machine, trained):
    machine(True)
    done = run(tmp_path, wanted="bf16")
    machine(False)
    trained.clear()
    for wanted in ("bf16", "auto"):
        loaded = run(tmp_path, wanted=wanted)
        assert_same_weights(loaded, done)
        assert loaded.precision == "bf16" and not loaded.trained_here
    with pytest.raises(ValueError, match="PRECISION"):
        run(tmp_path, seed=1, wanted="bf16")
    assert not trained and len(list(tmp_path.glob("tiny-*"))) == 1
    assert job(tmp_path, seed=1, wanted="bf16").minutes_left > 0        # it can be asked, quickly


def test_precision_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fp16"):
        run(tmp_path, wanted="fp16")


# ---- stopped and continued


class Killed(BaseException):
    """Stands for the end of the process: nothing in the program catches it."""


@pytest.mark.parametrize("recipe", [
    TINY.but(epochs=2), EARLY.but(epochs=3),
    TINY.but(epochs=2, start="linear", schedule="onecycle", residual=1, activation="silu")],
    ids=["all-epochs", "early-stopping", "linear-start"])
def test_run_that_dies_at_any_write_ends_bit_identical(tmp_path, monkeypatch, recipe):
    """At every file that a run writes, before it is renamed and after."""
    whole, replace, deaths = run(tmp_path / "whole", recipe), os.replace, 0
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
                run(tmp_path / f"{after}-{last}", recipe)
                break                           # fewer writes than `last`: all have been tried
            except Killed:
                deaths += 1
            monkeypatch.setattr(os, "replace", replace)
            again = run(tmp_path / f"{after}-{last}", recipe)
            assert_identical(again.folder, whole.folder)
            assert_same_weights(again, whole)
    assert deaths >= 2 * (1 + 2 * 2)            # run.json, then state and history an epoch


def test_run_that_dies_within_an_epoch_ends_bit_identical(tmp_path, monkeypatch):
    whole, terms, steps = run(tmp_path / "whole"), vae_helpers.elbo_terms, []

    def dies(*arguments):
        steps.append(1)
        if len(steps) in (3, 9, 12):
            raise Killed
        return terms(*arguments)

    monkeypatch.setattr(vae_helpers, "elbo_terms", dies)
    for _ in range(3):
        with pytest.raises(Killed):
            run(tmp_path / "parts")
    assert_identical(run(tmp_path / "parts").folder, whole.folder)


@pytest.mark.parametrize("recipe", [TINY, EARLY.but(epochs=4, patience=4)],
                         ids=["all-epochs", "early-stopping"])
def test_longer_run_begins_from_a_shorter_one_and_ends_as_if_it_had_not(tmp_path, trained, recipe):
    whole = run(tmp_path / "whole", recipe)
    for epochs in (1, 2):
        run(tmp_path / "parts", recipe, epochs=epochs)
    trained.clear()
    longer = run(tmp_path / "parts", recipe)
    assert trained == [3, 4]
    assert_identical(longer.folder, whole.folder)
    assert_same_weights(longer, whole)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_run_that_dies_while_it_borrows_ends_bit_identical(tmp_path, monkeypatch, writes):
    recipe, replace, left = EARLY.but(epochs=4, patience=4), os.replace, [None] * writes

    def dies(source, target):
        if not left:
            raise Killed
        left.pop(), replace(source, target)

    run(tmp_path / "parts", recipe, epochs=2)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", dies)
        run(tmp_path / "parts", recipe)
    longer = run(tmp_path / "parts", recipe)
    assert_identical(longer.folder, run(tmp_path / "whole", recipe).folder)


@pytest.mark.parametrize("changes", [
    dict(recipe=TINY.but(schedule="onecycle")), dict(seed=1), dict(wanted="bf16"),
    dict(recipe=TINY.but(beta=2)), dict(train=noise_images(seed=1))],
    ids=["onecycle", "seed", "precision", "beta", "images"])
def test_nothing_is_borrowed_from_a_run_that_differs_or_depends_on_its_length(
        tmp_path, trained, machine, changes):
    machine(True)
    recipe = TINY.but(schedule=changes.get("recipe", TINY).schedule)
    run(tmp_path, recipe, epochs=2)
    trained.clear()
    run(tmp_path, **{"recipe": recipe, **changes})
    assert trained == [1, 2, 3, 4]


def test_shorter_run_never_takes_a_longer_ones_weights(tmp_path):
    longer, shorter = run(tmp_path / "a"), run(tmp_path / "a", epochs=1)
    assert len(shorter.history) == 1
    assert without_times(shorter.history) == without_times(longer.history[:1])
    assert_same_weights(shorter, run(tmp_path / "alone", epochs=1))


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
def test_full_disk_keeps_the_last_epoch_and_leaves_nothing_half_written(
        tmp_path, trained, monkeypatch, room):
    def disk(path, mode="r", **more):
        file = open(path, mode, **more)
        return FullDisk(file, room) if 3 in trained and mode == "wb" else file

    monkeypatch.setattr(lab.files, "open", disk, raising=False)
    with pytest.raises(OSError, match="state.pt could not be written.*No space left on device"):
        run(tmp_path / "full")
    folder = next((tmp_path / "full").glob("tiny-*"))
    assert trained == [1, 2, 3] and len(state(folder)["history"]) == 2
    assert not list(folder.glob("*.tmp"))
    monkeypatch.undo()
    assert_identical(run(tmp_path / "full").folder, run(tmp_path / "whole").folder)


# ---- numbers that are none


@pytest.mark.parametrize("term", ["reconstruction", "KL"])
def test_non_finite_loss_names_epoch_batch_and_term_and_keeps_the_epoch_before(
        tmp_path, monkeypatch, term):
    calls, original = [], vae_helpers.elbo_terms

    def spoilt(*arguments):
        terms = original(*arguments)
        calls.append(1)
        if len(calls) == 4 + 3:                 # the second epoch's third batch
            getattr(terms, term.lower()).data.view(-1)[0] = math.nan
        return terms

    monkeypatch.setattr(vae_helpers, "elbo_terms", spoilt)
    with pytest.raises(NonFinite, match=f"tiny: the {term} .* epoch 2, batch 3; ") as stop:
        run(tmp_path / "spoilt")
    monkeypatch.undo()
    folder = next((tmp_path / "spoilt").glob("tiny-*"))
    assert f"{folder} keeps epoch 1" in str(stop.value) and len(state(folder)["history"]) == 1
    again, whole = run(tmp_path / "spoilt"), run(tmp_path / "whole")
    assert_identical(again.folder, whole.folder)        # and nothing of the bad epoch stays


def test_diverging_training_stops_by_itself(tmp_path):
    with pytest.raises(NonFinite, match="epoch 1, batch 2"):
        run(tmp_path, TINY.but(lr=1e30, norm=False))


def test_weights_spoilt_by_an_epochs_last_batch_are_not_kept(tmp_path):
    with pytest.raises(NonFinite, match="after the last batch of epoch 1"):
        run(tmp_path, TINY.but(lr=1e38, norm=False, batch=35), heldout=HELDOUT)
    assert not list(tmp_path.rglob("state.pt"))


# ---- real processes

WHAT = ("train", "p1-fc", "--limit", "400", "--epochs", "6", "--data", "standin", "--device", "cpu")


def command(runs, precision):
    return [*WHAT, "--runs", str(runs), "--precision", precision]


def start(runs, precision):
    """The command line in a process of its own, its lines readable one by one."""
    def hear_interruptions():           # which a shell's background jobs are born deaf to
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lab", *command(runs, precision)], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=None if os.name == "nt" else hear_interruptions)


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended before it printed {text!r}: {process.stderr.read()}")


@pytest.mark.parametrize("precision", ["auto"])
def test_killed_run_ends_bit_identical(tmp_path, capsys, precision):
    """SIGKILL while the second epoch and again while the third trains; the parts are the whole."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    splits = load_splits("cifar10", 32, chosen=True, limit=400, source="standin")
    for epoch in (1, 2):
        process = start(killed, precision)
        wait_for(process, f"epoch  {epoch}/6")
        if epoch == 1:
            with pytest.raises(Busy, match="another process is training"):
                Job(RECIPES["p1-fc"], splits, 6, runs=killed, device="cpu",
                    wanted=precision).train()
        process.kill()
        process.communicate()
        assert process.returncode not in (0, 1)
    folder = next(killed.glob("p1-fc-*"))
    assert 2 <= len(state(folder)["history"]) < 6
    whole.mkdir()
    for kept in killed.glob("machine.json"):
        (whole / kept.name).write_text(kept.read_text())
    capsys.readouterr()
    assert main(command(killed, precision)) == 0 == main(command(whole, precision))
    resumed, straight = capsys.readouterr().out.split("images for p1-fc")[1:]
    epochs = [[line for line in text.splitlines() if line.startswith("epoch")]
              for text in (resumed, straight)]
    assert epochs[0] == epochs[1] and len(epochs[0]) == 6
    assert_identical(folder, next(whole.glob("p1-fc-*")))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_interrupted_run_keeps_its_finished_epochs(tmp_path):
    process = start(tmp_path, "fp32")
    wait_for(process, "epoch  1/6")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().startswith("stopped; ") and "\n" not in errors.strip()
    folder = next(tmp_path.glob("p1-fc-*"))
    assert 1 <= len(state(folder)["history"]) < 6 and not list(folder.glob("*.tmp"))
