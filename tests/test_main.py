"""The command line: what it trains and lists, and that foreseen trouble is one line."""

import json
import shutil

import pytest

from lab import __main__ as command_line
from lab.__main__ import main
from lab.files import Refused
from lab.recipes import SPRINT_TRIALS, TRAININGS, TRIALS

QUICK = ["--limit", "200", "--data", "standin", "--device", "cpu", "--epochs", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of p1-fc and one on permuted pixels."""
    runs = tmp_path_factory.mktemp("trained")
    assert main(["train", "p1-fc", *QUICK, "--runs", str(runs)]) == 0
    assert main(["train", "fc-pca", "--permuted", *QUICK, "--runs", str(runs)]) == 0
    return runs


@pytest.fixture
def runs(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs")


def listed(runs, capsys):
    assert main(["list", *QUICK, "--runs", str(runs)]) == 0
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_list_says_of_every_training_whether_it_is_finished_and_names_an_orphan(runs, capsys):
    p1, permuted = next(runs.glob("p1-fc-1-*")), next(runs.glob("fc-pca-1-*"))
    shutil.copytree(p1, runs / "p1-fc-1-00000000")      # of code or data that are no longer here
    lines = listed(runs, capsys)
    last = json.loads((p1 / "run.json").read_text())["history"][-1]
    [line] = [line for line in lines if line.startswith("p1-fc: finished, 1 of 1")]
    assert line.endswith(f"loss {last['loss']:.1f}, KL {last['kl']:.1f}, {p1.name}")
    [line] = [line for line in lines if line.startswith("fc-pca, permuted: finished, 1 of 1")]
    assert line.endswith(permuted.name)
    n, trials = len(TRAININGS) - 2, len(TRIALS | SPRINT_TRIALS)
    [absent] = [i for i, line in enumerate(lines) if line.startswith("absent")]
    assert lines[absent].startswith(f"absent: {n} trainings and {trials} trials: conv; fc; ")
    assert "p2-fc; " in "".join(lines[absent:]) and " p1-fc;" not in "".join(lines[absent:])
    [orphan] = [line for line in lines if "orphan" in line]
    assert "p1-fc-1-00000000" in orphan


def test_list_tells_a_run_of_other_epochs_from_an_orphan(runs, capsys):
    assert main(["list", *QUICK[:-1], "2", "--runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert said.count("of 1 epochs and seed 0, for `list --epochs 1 --seed 0`") == 2
    assert main(["list", *QUICK, "--seed", "1", "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()        # fc-pca's permutation is another one, too
    [line] = [line for line in lines if "--seed 0" in line]
    assert line.startswith(next(runs.glob("p1-fc-1-*")).name) and "orphan" not in said


def test_a_damaged_file_is_named_by_list_which_goes_on_and_by_train_in_one_line(runs, capsys):
    file = next(runs.glob("p1-fc-1-*")) / "state.pt"
    file.write_bytes(file.read_bytes()[:99])
    lines = listed(runs, capsys)
    [line] = [line for line in lines if str(file) in line]
    assert "is damaged" in line and sum("finished" in line for line in lines) == 1
    assert main(["train", "p1-fc", *QUICK, "--runs", str(runs)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file} ") and error.count("\n") == 1


def test_what_is_finished_is_loaded_and_the_names_are_trained_in_their_order(runs, capsys):
    arguments = ["train", "p1-fc", "small", *QUICK, "--runs", str(runs)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.index("p1-fc, 1 epochs (best: 1) on 160 images, loaded") < out.index(
        "small, 1 epochs on 200 images, trained here")
    assert "stand-in" in out


def test_seed_epochs_and_permutation_are_those_asked_for(runs):
    assert main(["train", "p1-fc", *QUICK, "--epochs", "2", "--seed", "7",
                 "--runs", str(runs)]) == 0
    two, plain, permuted = (json.loads((next(runs.glob(name)) / "run.json").read_text())["identity"]
                            for name in ("p1-fc-2-*", "p1-fc-1-*", "fc-pca-1-*"))
    assert (two["seed"], two["epochs"], two["images"]) == (7, 2, 160)
    assert two["data"] == plain["data"] != permuted["data"]


def test_trials_are_decided_by_heldout_images_and_see_no_test_image(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "TRIALS", dict(list(TRIALS.items())[3:4]))
    monkeypatch.setattr(command_line, "SPRINT_TRIALS", {})
    assert main(["trials", *QUICK, "--runs", str(tmp_path)]) == 0
    [folder] = tmp_path.glob("trial-*")
    [epoch] = json.loads((folder / "run.json").read_text())["history"]
    assert f"held-out loss {epoch['heldout_loss']:.1f}" in capsys.readouterr().out
    assert not any(key.startswith("test") for key in epoch)


def test_a_shard_that_is_none_ends_with_status_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "fc", "--shard", "3/2"])
    assert "such as 1/4" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "named"), [
    (["--epochs", "-1"], "EPOCHS"), (["--device", "gpu"], "device 'gpu'"),
    (["--data", "real", "--limit", "9", "--data-root", "nowhere"], "nowhere")], ids=str)
def test_trouble_is_one_line_and_exit_code_1(tmp_path, capsys, arguments, named):
    assert main(["train", "fc", "--runs", str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_nobody_foresaw_keeps_its_traceback(capsys):
    def fails(error):
        raise error

    assert command_line.in_sentences(lambda: fails(Refused("what is wrong"))) == 1
    assert capsys.readouterr().err == "error: what is wrong\n"
    for unforeseen in (ValueError("a shape"), RuntimeError("a size"), OSError("a disk")):
        with pytest.raises(type(unforeseen)):
            command_line.in_sentences(lambda error=unforeseen: fails(error))
    assert command_line.in_sentences(lambda: fails(KeyboardInterrupt)) == 130
    assert capsys.readouterr().err.strip().startswith("stopped; ")


@pytest.mark.parametrize(("text", "taken"), [("1/1", "abcde"), ("1/2", "ace"), ("2/2", "bd"),
                                             ("3/7", "c"), ("7/7", "")])
def test_shards_share_a_list(text, taken):
    assert "".join(command_line.shard(text)(list("abcde"))) == taken
