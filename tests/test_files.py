"""The files of a run say whose they are; one that is damaged or another's is named, and kept."""

import contextlib
import errno
import json
import os
import pickle
import shutil
import struct
import zipfile

import pytest
import torch
from tiny import EARLY, TINY, assert_identical, assert_same_weights, flat, job, run, state

import lab.__main__
import lab.runs
from lab import files
from lab.files import Busy, Damaged, digest_of

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = EARLY.but(patience=3, epochs=6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that keeps its last weights and its best, in a folder that no test changes."""
    return run(tmp_path_factory.mktemp("finished"), RECIPE)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of its folder, in tmp_path."""
    shutil.copytree(finished.folder, tmp_path / finished.folder.name)
    return tmp_path / finished.folder.name


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Folders of a run of another seed, of another beta, and of one that never stops early."""
    runs = tmp_path_factory.mktemp("others")
    return {"seed": run(runs, RECIPE, seed=1).folder,
            "beta": run(runs, RECIPE.but(beta=2)).folder,
            "recipe": run(runs, TINY).folder}


def kept(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "lock"}


@contextlib.contextmanager
def refused(folder, name):
    """What is done within ends in one sentence that names the file, and changes none."""
    before = kept(folder)
    with pytest.raises(Damaged) as refusal:
        yield
    sentence = str(refusal.value)
    assert str(folder / name) in sentence and "\n" not in sentence and not sentence.endswith(".")
    assert kept(folder) == before


# ---- damage


def flipped(file, share):
    """The file's content with one bit of its tensors turned over."""
    whole = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        parts = [i for i in archive.infolist() if "/data/" in i.filename and i.file_size]
    part = parts[round(share * (len(parts) - 1))]
    name, extra = struct.unpack_from("<HH", whole, part.header_offset + 26)
    at = part.header_offset + 30 + name + extra + round(share * (part.file_size - 1))
    whole[at] ^= 0x10
    return bytes(whole)


def overwritten(file):
    """The content with random bytes in its middle."""
    whole = bytearray(file.read_bytes())
    middle = len(whole) // 2
    whole[middle: middle + 64] = os.urandom(64)
    return bytes(whole)


def saved(value, file):
    """What `torch.save` makes of a value."""
    beside = file.with_name("value")
    torch.save(value, beside)
    content = beside.read_bytes()
    beside.unlink()
    return content


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, file):
        self.path = str(file.with_name("trap"))

    def __reduce__(self):
        return os.mkdir, (self.path,)


DAMAGES = {
    "empty": lambda file: b"",
    "truncated": lambda file: file.read_bytes()[: file.stat().st_size // 2],
    "its-end-is-missing": lambda file: file.read_bytes()[:-1],
    "nonsense": lambda file: os.urandom(999),
    "nonsense-that-begins-well": lambda file: file.read_bytes()[:4] + os.urandom(999),
    "random-bytes-in-the-middle": overwritten,
    "first-bit": lambda file: flipped(file, 0),
    "early-bit": lambda file: flipped(file, 0.2),
    "middle-bit": lambda file: flipped(file, 0.5),
    "last-bit": lambda file: flipped(file, 1),
    "list": lambda file: saved([1, 2], file),
    "dict-of-other-things": lambda file: saved({"weights": {}}, file),
    "parts-of-other-kinds": lambda file: saved({"model": 1, "optimizer": 2, "history": 3}, file),
    "old-pickle": lambda file: pickle.dumps({"model": {}, "optimizer": {}, "history": []}),
    "pickle-that-acts": lambda file: pickle.dumps(Trap(file)),
    "archive-that-acts": lambda file: saved({"model": Trap(file)}, file),
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
both = pytest.mark.parametrize("name", ["state.pt", "best.pt"])


@both
@damaged
def test_damaged_file_of_a_finished_run_is_named_and_kept(folder, recwarn, name, damage):
    (folder / name).write_bytes(damage(folder / name))
    with refused(folder, name):
        run(folder.parent, RECIPE)
    assert not (folder / "trap").exists() and not recwarn.list


@pytest.mark.parametrize("other", ["seed", "beta", "recipe"])
def test_another_runs_file_is_refused(folder, others, other):
    shutil.copy(others[other] / "state.pt", folder / "state.pt")
    with refused(folder, "state.pt"):
        run(folder.parent, RECIPE)


@pytest.mark.parametrize("other", ["seed", "beta"])
def test_another_runs_best_weights_are_refused(folder, others, other):
    shutil.copy(others[other] / "best.pt", folder / "best.pt")
    with refused(folder, "best.pt"):
        run(folder.parent, RECIPE)


@pytest.mark.parametrize(("source", "target"), [("best.pt", "state.pt"), ("state.pt", "best.pt")])
def test_no_file_takes_the_place_of_the_other(folder, source, target):
    shutil.copy(folder / source, folder / target)
    with refused(folder, target):
        run(folder.parent, RECIPE)


@pytest.mark.parametrize("key", ["identity", "digest"])
def test_a_file_that_says_half_is_refused(folder, key):
    half = state(folder)
    del half[key]
    torch.save(half, folder / "state.pt")
    with refused(folder, "state.pt"):
        run(folder.parent, RECIPE)


def test_missing_best_weights_are_named(folder):
    (folder / "best.pt").unlink()
    with refused(folder, "best.pt"):
        run(folder.parent, RECIPE)


# ---- a run that is begun


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The folder of a run that was stopped in its third epoch."""
    original = lab.runs.train_epoch

    def train_epoch(*arguments, epoch, **more):
        if epoch == 3:
            raise KeyboardInterrupt
        return original(*arguments, epoch=epoch, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lab.runs, "train_epoch", train_epoch)
        run(tmp_path, RECIPE)
    folder = next(tmp_path.glob("early-*"))
    assert len(state(folder)["history"]) == 2
    return folder


@both
@pytest.mark.parametrize("damage", ["truncated", "middle-bit", "last-bit", "list"])
def test_damage_is_found_before_a_run_goes_on(begun, name, damage):
    (begun / name).write_bytes(DAMAGES[damage](begun / name))
    with refused(begun, name):
        run(begun.parent, RECIPE)


def test_missing_best_weights_are_named_before_a_run_goes_on(begun):
    (begun / "best.pt").unlink()
    with refused(begun, "best.pt"):
        run(begun.parent, RECIPE)


def test_run_goes_on_after_the_damaged_file_is_put_right(begun, finished):
    whole = (begun / "state.pt").read_bytes()
    (begun / "state.pt").write_bytes(whole[:-99])
    with refused(begun, "state.pt"):
        run(begun.parent, RECIPE)
    (begun / "state.pt").write_bytes(whole)
    assert_identical(run(begun.parent, RECIPE).folder, finished.folder)


# ---- borrowed from


@pytest.fixture
def shorter(tmp_path):
    return run(tmp_path / "runs", RECIPE, epochs=2).folder


def spoil(file, damage):
    file.unlink() if damage == "missing" else file.write_bytes(DAMAGES[damage](file))


SPOILT = [(name, damage) for damage in ("empty", "middle-bit", "list", "archive-that-acts")
          for name in ("state.pt", "best.pt")] + [("best.pt", "missing")]


@pytest.mark.parametrize(("name", "damage"), SPOILT)
def test_longer_run_passes_over_a_damaged_shorter_one(tmp_path, shorter, capsys, name, damage):
    spoil(shorter / name, damage)
    before = kept(shorter)
    capsys.readouterr()
    longer = run(tmp_path / "runs", RECIPE, epochs=4)
    lines = [line for line in capsys.readouterr().out.splitlines() if "not borrowed" in line]
    assert len(lines) == 1 and str(shorter / name) in lines[0] and kept(shorter) == before
    assert_identical(longer.folder, run(tmp_path / "whole", RECIPE, epochs=4).folder)


@pytest.mark.parametrize("content", ["", "nonsense", "[]", "{}", '{"identity": []}'])
def test_longer_run_passes_over_a_shorter_one_of_unknown_identity(
        tmp_path, shorter, capsys, content):
    (shorter / "run.json").write_text(content)
    capsys.readouterr()
    longer = run(tmp_path / "runs", RECIPE, epochs=4)
    lines = [line for line in capsys.readouterr().out.splitlines() if "not borrowed" in line]
    assert len(lines) == 1 and str(shorter / "run.json") in lines[0]
    assert (shorter / "run.json").read_text() == content and len(longer.history) == 4


def test_nothing_is_borrowed_from_a_folder_with_another_runs_state(tmp_path, shorter, capsys):
    other = run(tmp_path / "other", RECIPE, epochs=3, seed=1).folder
    shutil.copy(other / "state.pt", shorter / "state.pt")
    longer = run(tmp_path / "runs", RECIPE, epochs=4)
    assert str(shorter / "state.pt") in capsys.readouterr().out
    assert_identical(longer.folder, run(tmp_path / "whole", RECIPE, epochs=4).folder)


# ---- JSON

JSON_DAMAGES = ["", "nonsense", "[]", "{}", "7", "[1]", '[{"epoch": 1, "loss": "low"}]',
                '{"identity": {}}', '{"identity": {"recipe": 1, "epochs": "8"}}', "\x00\x01"]


@pytest.mark.parametrize("content", JSON_DAMAGES)
@pytest.mark.parametrize("name", ["history.json", "run.json"])
def test_list_names_a_damaged_folder_in_a_line_and_goes_on(
        folder, others, capsys, monkeypatch, name, content):
    monkeypatch.setattr(lab.__main__, "RECIPES", {"early": RECIPE})
    monkeypatch.setattr(lab.__main__, "CHAPTERS", {"A chapter": ["early"]})
    shutil.copytree(others["seed"], folder.parent / others["seed"].name)
    (folder / name).write_text(content)
    assert lab.__main__.main(["list", "--runs", str(folder.parent)]) == 0
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if folder.name in line]
    assert len(lines) == 1 and not err
    assert name in lines[0] or (name, content) == ("history.json", "[]")    # that is no epoch yet
    assert any(others["seed"].name in line for line in out.splitlines())


@pytest.mark.parametrize("content", JSON_DAMAGES)
@pytest.mark.parametrize("name", ["history.json", "run.json"])
def test_finished_run_needs_no_json_to_be_loaded(folder, finished, name, content):
    (folder / name).write_text(content)
    again = run(folder.parent, RECIPE)
    assert not again.trained_here and again.history == finished.history


def test_bytes_that_are_no_text_are_damage(folder):
    for name, read in (("run.json", files.read_identity), ("history.json", files.read_history)):
        (folder / name).write_bytes(b"\xff\xfe\x00")
        with refused(folder, name):
            read(folder)


# ---- files from before they said whose they are


def make_old(folder, identity=None):
    """Writes the folder's files as they were written once, run.json with this identity."""
    for file in folder.glob("*.pt"):
        parts = state(folder, file.name)
        del parts["identity"], parts["digest"]
        torch.save(parts, file)
    identity = identity or json.loads((folder / "run.json").read_text())["identity"]
    (folder / "run.json").write_text(json.dumps(
        {"identity": identity, "torch": "2.1.0", "python": "3.11.2", "helpers": "12345678"}))


def said(capsys, folder):
    return [line for line in capsys.readouterr().out.splitlines() if str(folder) in line]


def test_old_files_are_loaded_and_rewritten_as_new_ones(folder, finished, capsys):
    make_old(folder)
    capsys.readouterr()
    again = run(folder.parent, RECIPE)
    assert len(said(capsys, folder)) == 1
    assert not again.trained_here and again.history == finished.history
    assert_same_weights(again, finished)
    for name in ("state.pt", "best.pt"):
        assert flat(state(folder, name)).keys() == flat(state(finished.folder, name)).keys()
        assert state(folder, name)["digest"] == state(finished.folder, name)["digest"]
        assert state(folder, name)["identity"] == state(finished.folder, name)["identity"]
    before = kept(folder)
    run(folder.parent, RECIPE)
    assert not said(capsys, folder) and kept(folder) == before


def test_old_file_goes_on_to_the_same_end(begun, finished):
    make_old(begun)
    assert_identical(run(begun.parent, RECIPE).folder, finished.folder)


def test_old_file_lends_its_epochs(tmp_path, shorter):
    make_old(shorter)
    before = kept(shorter)
    longer = run(tmp_path / "runs", RECIPE, epochs=4)
    assert longer.history[:2] == state(shorter)["history"] and kept(shorter) == before
    assert_identical(longer.folder, run(tmp_path / "whole", RECIPE, epochs=4).folder)


def test_old_file_beside_another_runs_identity_is_refused(folder):
    make_old(folder, job(folder.parent, RECIPE, seed=1).identity)
    with refused(folder, "state.pt"):
        run(folder.parent, RECIPE)


def test_old_file_without_an_identity_beside_it_is_refused(folder):
    make_old(folder)
    (folder / "run.json").unlink()
    with refused(folder, "run.json"):
        run(folder.parent, RECIPE)


@both
def test_old_file_of_another_shape_is_refused(folder, name):
    make_old(folder)
    parts = state(folder, name)
    parts["model"]["to_mu.bias"] = torch.zeros(4)
    torch.save(parts, folder / name)
    with refused(folder, name):
        run(folder.parent, RECIPE)


def test_old_file_of_another_shape_lends_nothing(tmp_path, shorter, capsys):
    make_old(shorter)
    parts = state(shorter)
    parts["model"]["to_mu.bias"] = torch.zeros(4)
    torch.save(parts, shorter / "state.pt")
    longer = run(tmp_path / "runs", RECIPE, epochs=4)
    assert str(shorter / "state.pt") in capsys.readouterr().out
    assert_identical(longer.folder, run(tmp_path / "whole", RECIPE, epochs=4).folder)


@pytest.mark.parametrize("optimizer", [{}, {"state": {}, "param_groups": []}])
def test_old_file_with_another_optimizer_is_refused_before_the_run_goes_on(begun, optimizer):
    make_old(begun)
    torch.save({**state(begun), "optimizer": optimizer}, begun / "state.pt")
    with refused(begun, "state.pt"):
        run(begun.parent, RECIPE)


@pytest.mark.parametrize("history", [[1, 2], [{"epoch": 1}], [{}] * 6])
def test_old_file_whose_epochs_are_no_records_is_refused(folder, history):
    make_old(folder)
    torch.save({**state(folder), "history": history}, folder / "state.pt")
    with refused(folder, "state.pt"):
        run(folder.parent, RECIPE)


# ---- digests


def test_digest_is_that_of_every_value_type_shape_and_name():
    x = torch.arange(6.0)
    value = {"model": {"weight": x, "steps": torch.tensor(3)}, "history": [{"loss": 1.5}]}
    same = {"model": {"weight": x.clone(), "steps": torch.tensor(3)}, "history": [{"loss": 1.5}]}
    assert digest_of(value) == digest_of(same)
    others = [x + torch.tensor([0, 0, 0, 0, 0, 1e-6]), x.view(2, 3), x.double(), -x,
              x.to(torch.bfloat16), x.int()]
    digests = {digest_of(value)} | {
        digest_of({**value, "model": {**value["model"], "weight": other}}) for other in others}
    digests |= {digest_of({**value, "history": [{"loss": 1.5000000001}]}),
                digest_of({**value, "history": [{"kl": 1.5}]}),
                digest_of({**value, "model": {"bias": x, "steps": torch.tensor(3)}})}
    assert len(digests) == len(others) + 4


def test_digest_does_not_depend_on_how_a_tensor_lies_in_memory():
    x = torch.rand(2, 3, 4, 4)
    assert digest_of(x) == digest_of(x.to(memory_format=torch.channels_last))
    assert digest_of(x) == digest_of(x.requires_grad_()) == digest_of(x.repeat(2, 1, 1, 1)[:2])
    assert digest_of(torch.zeros(0)) != digest_of(torch.zeros(0, 3))


def test_files_hold_what_the_next_epoch_needs_and_whose_they_are(finished):
    whose = {"identity", "digest"}
    assert set(state(finished.folder)) == {"model", "optimizer", "history"} | whose
    assert set(state(finished.folder, "best.pt")) == {"model"} | whose
    assert json.loads(state(finished.folder)["identity"]) == finished.identity


# ---- written whole or not at all


def test_failing_flush_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "kept.json"
    files.write_json(file, {"epoch": 1})

    def fails(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="kept.json"):
        files.write_json(file, {"epoch": 2})
    assert json.loads(file.read_text()) == {"epoch": 1} and os.listdir(tmp_path) == ["kept.json"]


def test_half_written_files_of_a_killed_process_are_removed(begun):
    (begun / "state.pt.123.tmp").write_bytes(b"half")
    run(begun.parent, RECIPE)
    names = sorted(p.name for p in begun.iterdir())
    assert names == ["best.pt", "history.json", "lock", "run.json", "state.pt"]


def test_folder_has_one_holder_at_a_time(tmp_path):
    with files.only_process(tmp_path):
        with pytest.raises(Busy), files.only_process(tmp_path):
            raise AssertionError("held twice")
    with files.only_process(tmp_path):
        pass
