"""Jobs and runs: what decides a run, what it keeps, and that it survives being stopped anyhow."""

import errno
import json
import math
import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch
from tiny import (
    EARLY,
    HELDOUT,
    IMAGES,
    TEST,
    TINY,
    Stopped,
    Trap,
    assert_identical,
    assert_same_weights,
    ended,
    first_epoch_of,
    forked,
    job,
    noise_images,
    plain,
    run,
    state,
    wait_until,
)

import lab.runs
import vae_helpers
from data import load_splits
from lab.__main__ import main
from lab.files import Busy, Damaged, Refused, Trouble, only_process
from lab.recipes import RECIPES
from lab.runs import Job, run_folder, run_hash, run_identity
from lab.training import evaluate, summary
from vae_helpers import build


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


def test_history_has_what_is_promised_and_lies_on_disk_twice(tmp_path):
    done = run(tmp_path, heldout=HELDOUT, test=TEST)
    assert [h["epoch"] for h in done.history] == [1, 2, 3, 4]
    terms = {prefix + term for prefix in ("", "heldout_", "test_")
             for term in ("loss", "reconstruction", "kl")}
    for record in done.history:
        assert record.keys() == terms | {"epoch", "seconds", "start_seconds", "device"}
    assert done.last["loss"] < done.history[0]["loss"]
    said = json.loads((done.folder / "run.json").read_text())
    assert done.history == state(done.folder)["history"] == said["history"]
    assert run_hash(said["identity"]) == done.hash and said["torch"] == torch.__version__


def test_heldout_and_test_change_nothing_where_nothing_is_chosen(tmp_path):
    alone = run(tmp_path / "a")
    other = run(tmp_path / "b", heldout=HELDOUT, test=TEST)
    assert_same_weights(alone, other)
    assert other.chosen is other.last and state(other.folder)["best"] is None


def test_a_recipe_of_fewer_images_trains_on_the_first_ones(tmp_path):
    fewer = run(tmp_path / "a", TINY.but(images=20))
    part = run(tmp_path / "b", train=IMAGES.take(20))
    assert plain(fewer.history) == plain(part.history)
    assert fewer.identity["images"] == 20 and fewer.hash != part.hash


def test_seconds_count_the_start_and_the_median_epoch(tmp_path):
    done = run(tmp_path, TINY.but(start="linear", latent=2))
    for h, seconds in zip(done.history, (9.0, 2.0, 3.0, 1.0), strict=True):
        h["seconds"], h["start_seconds"] = seconds, 5.0
    assert done.pace == 2.0 and done.seconds == 5.0 + 4 * 2.0
    assert state(done.folder)["history"][0]["start_seconds"] > 0


def test_finished_run_is_loaded_not_trained(tmp_path, trained):
    first = run(tmp_path, EARLY)
    assert trained == first.curve("epoch")
    trained.clear()
    again = run(tmp_path, EARLY)
    assert first.trained_here and not again.trained_here and not trained
    assert "trained here" in repr(first) and "loaded" in repr(again)
    assert again.history == first.history and not again.model.training
    assert_same_weights(first, again)


def test_training_and_the_global_random_numbers_leave_each_other_alone(tmp_path):
    torch.manual_seed(3)
    known = torch.rand(4)
    torch.manual_seed(3)
    first = run(tmp_path / "a", test=TEST)
    assert torch.equal(torch.rand(4), known)
    assert_same_weights(first, run(tmp_path / "b", test=TEST))


def test_what_the_committed_run_took_is_said_before_a_training(tmp_path, capsys, monkeypatch):
    took = [{"recipe": "tiny", "epochs": 4, "minutes": 12.34, "images": 35, "device": "an abacus",
             "precision": "fp32"}]
    (tmp_path / "results.json").write_text(json.dumps({"trainings": took}))
    monkeypatch.setattr(lab.runs, "RESULTS", tmp_path / "results.json")
    run(tmp_path)
    out = capsys.readouterr().out.splitlines()
    assert out[1].startswith("the committed run took 12.3 minutes on 35 images (an abacus, fp32")
    run(tmp_path), run(tmp_path, epochs=3)              # loaded; of another length
    assert "committed" not in capsys.readouterr().out


# ---- early stopping


def test_early_stopping_keeps_the_best_weights_and_goes_on_from_the_last(tmp_path, trained):
    done = run(tmp_path, EARLY.but(lr=0.1, epochs=40, patience=3))
    losses = done.curve("heldout_loss")
    assert len(losses) < 40 and losses.index(min(losses)) < len(losses) - 1

    def heldout_loss(weights):
        model = build(done.recipe)
        model.load_state_dict(weights)
        return summary(done.recipe, evaluate(model, HELDOUT.images))["loss"]

    kept = state(done.folder)
    assert heldout_loss(done.model.state_dict()) == heldout_loss(kept["best"]) == min(losses)
    assert heldout_loss(kept["model"]) == losses[-1] > min(losses)
    assert done.chosen is done.history[losses.index(min(losses))] is not done.last
    assert f"{len(losses)} epochs (best: {done.chosen['epoch']})" in repr(done)
    trained.clear()
    assert not run(tmp_path, done.recipe).trained_here and not trained


# ---- identity

CHANGES = [("name", "other"), ("latent", 4), ("widths", (4, 6)), ("norm", False), ("beta", 2),
           ("noise", False), ("batch", 11), ("lr", 2e-3), ("schedule", "onecycle"), ("clip", 1),
           ("reconstruction", "sse"), ("network", "fc"), ("patience", 2), ("images", 30),
           ("trial", True), ("rise", 0.2)]


def identity(recipe=TINY, train=IMAGES, heldout=None, seed=0, epochs=4, precision="fp32", n=1):
    return run_identity(recipe, train, heldout, seed, epochs, precision, n)


def test_whatever_decides_the_result_decides_the_folder():
    others = [identity(TINY.but(**{field: value}), heldout=HELDOUT) for field, value in CHANGES]
    others += [identity(seed=1), identity(epochs=5), identity(precision="bf16"), identity(n=2),
               identity(train=noise_images(seed=1)), identity(train=noise_images(34)), identity()]
    assert len({run_folder("runs", other) for other in others}) == len(CHANGES) + 7
    assert run_folder("runs", identity()) == run_folder("runs", identity(TINY.but(beta=1)))


def test_heldout_set_and_number_of_processes_decide_some_runs_alone():
    """A run that stops by that set, and one whose batches are normalised in parts."""
    assert run_hash(identity(EARLY, heldout=HELDOUT)) != run_hash(identity(EARLY, heldout=TEST))
    assert identity(heldout=HELDOUT) == identity() != identity(n=2) != identity(n=3)
    assert identity(TINY.but(norm=False), n=2) == identity(TINY.but(norm=False))


# ---- precision


@pytest.fixture
def machine(monkeypatch):
    """A CPU that has bf16, or one that has not."""
    def has(bf16):
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda: bf16)

    return has


def test_a_finished_run_goes_before_a_begun_one_and_that_before_a_new_one(tmp_path, machine):
    machine(True)
    first_epoch_of(job(tmp_path, wanted="bf16"))        # one of four
    machine(False)                                      # here it cannot go on
    assert job(tmp_path, wanted="auto").precision == "fp32"
    machine(True)
    assert job(tmp_path, wanted="auto").precision == "bf16"
    done = run(tmp_path, wanted="fp32")
    for wanted in ("auto", "fp32"):
        again = run(tmp_path, wanted=wanted)
        assert not again.trained_here and again.folder == done.folder
    assert job(tmp_path, wanted="bf16").precision == "bf16"         # what is asked for is done
    run(tmp_path, seed=1, wanted="bf16")
    machine(False)
    for wanted in ("auto", "bf16"):
        loaded = run(tmp_path, seed=1, wanted=wanted)
        assert loaded.precision == "bf16" and not loaded.trained_here
    with pytest.raises(Refused, match="PRECISION"):
        run(tmp_path, seed=2, wanted="bf16")


# ---- stopped and continued


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
                    raise Stopped

            monkeypatch.setattr(os, "replace", dies)
            try:
                run(tmp_path / f"{after}-{last}", recipe)
                break                           # fewer writes than `last`: all have been tried
            except Stopped:
                deaths += 1
            monkeypatch.setattr(os, "replace", replace)
            again = run(tmp_path / f"{after}-{last}", recipe)
            assert_identical(again.folder, whole.folder)
            assert_same_weights(again, whole)
    assert deaths >= 2 * 2 * 2                  # state and what is for people, two epochs


def test_full_disk_keeps_the_last_epoch_and_leaves_nothing_half_written(
        tmp_path, trained, monkeypatch):
    def flush(descriptor):
        if 3 in trained:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", flush)
    with pytest.raises(Trouble, match="state.pt could not be written.*No space left on device"):
        run(tmp_path / "full")
    folder = next((tmp_path / "full").glob("tiny-*"))
    assert trained == [1, 2, 3] and len(state(folder)["history"]) == 2
    assert not list(folder.glob("*.tmp"))
    monkeypatch.undo()
    assert_identical(run(tmp_path / "full").folder, run(tmp_path / "whole").folder)


def test_what_is_finished_in_a_folder_that_cannot_be_written_is_loaded(tmp_path, monkeypatch):
    run(tmp_path / "runs")

    def refuses(*arguments, **more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "open", "replace"):
        monkeypatch.setattr(os, name, refuses)
    assert not run(tmp_path / "runs").trained_here
    with pytest.raises(Trouble, match="tiny-4-.* cannot be written to"):
        run(tmp_path / "runs", seed=1)


def test_half_written_files_of_a_killed_process_are_removed_and_one_process_has_a_folder(tmp_path):
    folder = job(tmp_path).folder
    folder.mkdir()
    (folder / "state.pt.123.tmp").write_bytes(b"half")
    with only_process(folder), pytest.raises(Busy, match="another process is training"):
        run(tmp_path)
    run(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["lock", "run.json", "state.pt"]


# ---- damage


def flipped(file):
    """One bit of a weight turned over, where no archive keeps a sum of it."""
    held = state(file.parent)
    held["model"]["to_mu.bias"].view(torch.uint8)[0] ^= 1
    torch.save(held, file)


def another_runs(file):
    shutil.copy(run(file.parents[2] / "other", seed=1).folder / "state.pt", file)


@pytest.mark.parametrize("damage", [
    flipped, another_runs, lambda file: file.write_bytes(pickle.dumps(Trap())),
    lambda file: torch.save({"model": Trap()}, file)],
    ids=["a bit", "another run's", "a pickle", "an archive that acts"])
def test_a_damaged_or_another_runs_file_is_named_in_a_sentence_and_kept(
        tmp_path, damage, recwarn, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = run(tmp_path / "runs").folder / "state.pt"
    damage(file)
    before = file.read_bytes()
    with pytest.raises(Damaged) as refusal:
        run(tmp_path / "runs")
    sentence = str(refusal.value)
    assert str(file) in sentence and "\n" not in sentence and not sentence.endswith(".")
    assert file.read_bytes() == before and not Path("was here").exists() and not recwarn.list


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
    with pytest.raises(Trouble, match=f"tiny: the {term} .* epoch 2, batch 3; ") as stop:
        run(tmp_path / "spoilt")
    monkeypatch.undo()
    folder = next((tmp_path / "spoilt").glob("tiny-*"))
    assert f"{folder} keeps epoch 1" in str(stop.value) and len(state(folder)["history"]) == 1
    assert_identical(run(tmp_path / "spoilt").folder, run(tmp_path / "whole").folder)


def test_weights_spoilt_by_an_epochs_last_batch_are_not_kept(tmp_path):
    with pytest.raises(Trouble, match="after the last batch of epoch 1; nothing is kept"):
        run(tmp_path, TINY.but(lr=1e38, norm=False, batch=35), heldout=HELDOUT)
    assert not list(tmp_path.rglob("state.pt"))


# ---- real processes

WHAT = ["train", "p1-fc", "--limit", "200", "--epochs", "6", "--data", "standin",
        "--device", "cpu", "--runs"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_run_that_is_interrupted_and_killed_ends_bit_identical(tmp_path, capfd):
    """SIGINT after the first epoch and SIGKILL after the next; the parts are the whole."""
    parts, whole, said = tmp_path / "parts", tmp_path / "whole", tmp_path / "said"
    splits = load_splits("cifar10", 32, chosen=True, limit=200, source="standin")
    wanted = Job(RECIPES["p1-fc"], splits, 6, runs=parts, device="cpu")
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        before = len(wanted.history)
        child = forked(lambda: main([*WHAT, str(parts)]), said)
        wait_until(lambda before=before: len(wanted.history) > before)
        with pytest.raises(Busy, match="another process is training"):
            wanted.train()
        os.kill(child, number)
        assert ended(child) == [status]
    assert "\nstopped; train, trials and full go on" in said.read_text()
    assert "Traceback" not in said.read_text() and 2 <= len(wanted.history) < 6
    assert main([*WHAT, str(parts)]) == 0 == main([*WHAT, str(whole)])
    assert_identical(wanted.folder, next(whole.glob("p1-fc-*")))
