"""The command line: what it trains and lists, and that trouble is one line."""

import json

import pytest
import torch

from lab import __main__ as command_line
from lab.__main__ import main
from lab.files import only_process
from lab.recipes import CHAPTERS, RECIPES, TRIALS
from vae_helpers import build, count_parameters

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["--limit", "200", "--data", "standin", "--precision", "fp32", "--device", "cpu"]


def test_list_shows_every_recipe_and_what_is_trained_of_it(tmp_path, capsys):
    runs = ["--runs", str(tmp_path)]
    assert main(["train", "p1-fc", "--epochs", "1", *QUICK, *runs]) == 0
    trained = capsys.readouterr().out.splitlines()
    assert "stand-in" in trained[1]
    assert trained[-1].startswith("p1-fc, 1 epochs (best: 1) on 160 images, trained here")
    assert main(["list", *runs]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(CHAPTERS) + len(RECIPES) + 1
    heads = {line.split()[0]: line for line in listed if line[0] == " " != line[2]}
    assert heads.keys() == RECIPES.keys()
    for name, line in heads.items():
        assert f"{count_parameters(build(RECIPES[name])):,} parameters" in line
    folder = next(tmp_path.glob("p1-fc-1-*"))
    last = json.loads((folder / "history.json").read_text())[-1]
    assert listed[1 + listed.index(heads["p1-fc"])].strip() == (
        f"{folder.name}: 1 of 1 epochs, seed 0, 160 images, fp32, "
        f"loss {last['loss']:.1f}, KL {last['kl']:.1f}")
    [chapter] = [line for line in listed if line.startswith("The sweep")]
    assert chapter == "The sweep: 8 recipes, 1 finished runs, 0 minutes"


def test_list_of_no_runs_is_that_of_the_recipes(tmp_path, capsys):
    assert main(["list", "--runs", str(tmp_path / "nowhere")]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(CHAPTERS) + len(RECIPES) and not err


def test_list_shows_runs_whose_recipe_is_gone(tmp_path, capsys, monkeypatch):
    main(["train", "p1-fc", "--epochs", "1", *QUICK, "--runs", str(tmp_path)])
    monkeypatch.setattr(command_line, "RECIPES", {})
    monkeypatch.setattr(command_line, "CHAPTERS", {})
    capsys.readouterr()
    assert main(["list", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(next(tmp_path.glob("p1-fc-*")).name)


def test_names_are_trained_in_their_order_and_finished_ones_loaded(tmp_path, capsys):
    arguments = ["train", "p1-fc", "small", "--epochs", "1", *QUICK, "--runs", str(tmp_path)]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert first.index("p1-fc, 1 epochs") < first.index("small, 1 epochs")
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert first.count("trained here") == again.count("loaded") == 2
    assert "trained here" not in again


def test_seed_and_epochs_are_those_asked_for(tmp_path):
    assert main(["train", "p1-fc", "--epochs", "2", "--seed", "7", *QUICK,
                 "--runs", str(tmp_path)]) == 0
    [folder] = tmp_path.glob("p1-fc-2-*")
    kept = json.loads((folder / "run.json").read_text())["identity"]
    assert (kept["seed"], kept["epochs"], kept["images"]) == (7, 2, 160)


def test_trials_are_decided_by_heldout_images_and_see_no_test_image(tmp_path, capsys, monkeypatch):
    some = dict(list(TRIALS.items())[2:4])
    monkeypatch.setattr(command_line, "TRIALS", some)
    assert main(["trials", "--epochs", "1", *QUICK, "--runs", str(tmp_path)]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if "held-out loss" in line]
    folders = list(tmp_path.glob("improved-1-*"))
    assert len(shown) == len(folders) == len(some)
    for folder in folders:
        [epoch] = json.loads((folder / "history.json").read_text())
        assert "heldout_loss" in epoch and not any(key.startswith("test") for key in epoch)
        assert f"held-out loss {epoch['heldout_loss']:.1f}" in shown


@pytest.mark.parametrize(("arguments", "named"), [
    ([], ["COMMAND"]), (["bake"], ["bake"]), (["train"], ["NAME"]),
    (["train", "fc", "--epochs", "many"], ["--epochs"]),
    (["train", "fc", "cnn"], ["cnn", *RECIPES])], ids=str)
def test_a_command_that_is_none_ends_with_status_2(capsys, arguments, named):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and all(name in last for name in named)


@pytest.mark.parametrize(("arguments", "named"), [
    (["--epochs", "-1"], "EPOCHS"), (["--limit", "-1"], "TRAIN_LIMIT"),
    (["--seed", str(2 ** 70)], "SEED"), (["--runs", ""], "RUNS"), (["--data", "mnist"], "DATA"),
    (["--device", "gpu"], "device 'gpu'"), (["--precision", "fp8"], "precision 'fp8'"),
    (["--data", "real", "--limit", "9", "--data-root", "nowhere"], "nowhere")], ids=str)
def test_trouble_is_one_line_and_exit_code_1(tmp_path, capsys, arguments, named):
    assert main(["train", "fc", "--runs", str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_bf16_without_instructions_is_one_line_that_says_what_to_set(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lab.runs.has_bf16", lambda device: False)
    arguments = ["train", "p1-fc", "--epochs", "1", *QUICK, "--precision", "bf16"]
    assert main([*arguments, "--runs", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "PRECISION" in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_damaged_run_is_one_line_that_names_its_file(tmp_path, capsys):
    arguments = ["train", "p1-fc", "--epochs", "1", *QUICK, "--runs", str(tmp_path)]
    assert main(arguments) == 0
    file = next(tmp_path.glob("p1-fc-*")) / "state.pt"
    torch.save([1, 2], file)
    capsys.readouterr()
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file} ") and error.count("\n") == 1


@pytest.mark.parametrize("trouble", [ValueError, OSError, RuntimeError, ArithmeticError])
def test_foreseen_trouble_is_a_sentence_and_a_fault_of_the_code_is_not(capsys, trouble):
    def fails():
        raise trouble("what is wrong")

    def is_wrong():
        raise KeyError("name")

    assert command_line.in_sentences(fails) == 1
    assert capsys.readouterr().err == "error: what is wrong\n"
    with pytest.raises(KeyError):
        command_line.in_sentences(is_wrong)


def test_interruption_is_a_sentence_and_status_130(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert command_line.in_sentences(interrupted) == 130
    assert capsys.readouterr().err.strip().startswith("stopped; ")


# ---- a list of trainings as a queue


@pytest.mark.parametrize(("text", "taken"), [("1/1", "abcde"), ("1/2", "ace"), ("2/2", "bd"),
                                             ("3/7", "c"), ("7/7", "")])
def test_shards_share_a_list(text, taken):
    assert "".join(command_line.shard(text)(list("abcde"))) == taken


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "1/-2", ""])
def test_a_part_that_there_is_not_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        main(["train", "fc", "--shard", text])
    assert "such as 1/4" in capsys.readouterr().err


def test_what_another_process_trains_is_left_to_it_in_one_line(tmp_path, capsys):
    arguments = ["train", "p1-fc", "p2-fc", "--epochs", "1", *QUICK, "--runs", str(tmp_path)]
    assert main(arguments) == 0
    folder = next(tmp_path.glob("p1-fc-1-*"))
    (folder / "state.pt").unlink()
    capsys.readouterr()
    with only_process(folder):
        assert main(arguments) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "another process" in line]
    assert len(said) == 1 and str(folder) in said[0]
