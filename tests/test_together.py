"""One training on several processes, each with a disk of its own, is the same training."""

import os
import signal
import socket
import time
from functools import partial

import pytest
import torch
from tiny import EARLY, HELDOUT, TINY, ended, first_epoch_of, forked, job, plain, wait_until
from torch import distributed

from lab.__main__ import main
from lab.files import Trouble, only_process

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
PLAIN = TINY.but(name="plain", norm=False, epochs=2)      # 35 images, batches of 10: the last has 5
ODD = PLAIN.but(name="odd", batch=17)                     # 17, 17 and 1: one process has no row
SILENT = PLAIN.but(name="silent", noise=False)
GAUSSIAN = PLAIN.but(name="gaussian", reconstruction="gaussian", clip=1.0)
RESUMED, FINISHED, DAMAGED, TAKEN, FOREIGN = (
    PLAIN.but(name=name) for name in ("resumed", "done", "damaged", "taken", "foreign"))
LONG = PLAIN.but(epochs=4000)
ALIKE = {recipe.name: recipe for recipe in (PLAIN, ODD, SILENT, GAUSSIAN, EARLY, RESUMED)}


def begun(n, folder, *recipes):
    """Starts n processes, as torchrun does, that train these recipes together, each on a disk of
    its own; a line for each stands in the file `said`. The processes' numbers."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def train(rank):
        for recipe in recipes:
            try:
                own = {"train": HELDOUT} if recipe == FOREIGN and rank else {}
                came = "run" if job(folder / str(rank), recipe, **own).train() else "None"
            except Trouble as trouble:
                came = f"{type(trouble).__name__}: {trouble}"
            with open(folder / "said", "a") as file:
                file.write(f"{rank} {recipe.name} {came}\n")
        distributed.destroy_process_group()

    return [forked(partial(train, rank), folder / "printed", WORLD_SIZE=str(n), RANK=str(rank),
                   LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            for rank in range(n)]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder in which two processes trained, each in its own part, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    first_epoch_of(job(folder / "0", RESUMED))
    job(folder / "0", FINISHED).train()
    first_epoch_of(job(folder / "0", DAMAGED))
    with open(job(folder / "0", DAMAGED).folder / "state.pt", "r+b") as file:
        file.truncate(2000)
    with only_process(job(folder / "0", TAKEN).folder):
        children = begun(2, folder, PLAIN, ODD, SILENT, GAUSSIAN, TAKEN, FOREIGN, EARLY, RESUMED,
                         FINISHED, DAMAGED)
        assert ended(*children) == [0, 0], (folder / "printed").read_text()
    return folder, (folder / "said").read_text().splitlines()


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_train_what_one_does(together, tmp_path, name):
    """Losses of every epoch to 1e-4, weights to 1e-5 but for one in a thousand entries: Adam
    divides rounding by rounding. `resumed` had its first epoch on the first disk alone."""
    two, one = job(together[0] / "0", ALIKE[name]).train(), job(tmp_path, ALIKE[name]).train()
    assert not two.trained_here and len(two.history) == len(one.history)
    for a, b in zip(plain(two.history), plain(one.history), strict=True):
        assert a.pop("device") == b.pop("device") and a == pytest.approx(b, rel=1e-4)
    a, b = (torch.cat([v.flatten() for v in run.model.state_dict().values()]) for run in (two, one))
    assert ((a - b).abs() > 1e-5 + 1e-5 * b.abs()).double().mean() <= 1e-3


def test_the_first_process_alone_has_the_run(together):
    folder, said = together
    assert not (folder / "1").exists()
    for name in ("plain", "done"):
        assert f"0 {name} run" in said and f"1 {name} None" in said


def test_trouble_of_the_first_process_is_a_sentence_of_both(together):
    [first, second] = sorted(line for line in together[1] if line[2:].startswith("damaged"))
    assert "state.pt is damaged" in first and "the first process ended" in second


def test_a_run_that_is_taken_is_left_by_all_processes(together):
    assert [line[:13] for line in sorted(together[1]) if "taken" in line] == [
        "0 taken Busy:", "1 taken Busy:"]


def test_processes_with_different_images_refuse_to_train_together(together):
    folder, said = together
    refused = [line for line in said if "foreign" in line]
    assert len(refused) == 2 and all("different images" in line for line in refused)
    assert not list((folder / "0").glob("foreign-*/state.pt"))


def test_on_gpus_each_process_has_the_one_of_its_number_on_its_host(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    wanted = job(tmp_path, PLAIN, device="auto")
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert wanted.where == torch.device("cuda", 1) and taken == [wanted.where]


def test_a_killed_process_ends_the_other_within_seconds_and_leaves_a_whole_checkpoint(tmp_path):
    for victim in (0, 1):
        folder = tmp_path / str(victim)
        children, long = begun(2, folder, LONG), job(folder / "0", LONG)
        wait_until((long.folder / "run.json").exists)
        os.kill(children[victim], signal.SIGKILL)
        killed = time.monotonic()
        ended(*children)
        assert time.monotonic() - killed < 20 and 0 < len(long.history) < LONG.epochs
        said = (folder / "said").read_text()
        assert f"{1 - victim} plain Trouble: another process of this training ended" in said


def test_two_workers_over_one_list_train_each_run_once(tmp_path):
    command = ["train", "p1-fc", "--epochs", "1", "--limit", "120", "--data", "standin",
               "--device", "cpu", "--runs", str(tmp_path / "runs"), "--seed", "0", "1", "2"]
    said = tmp_path / "said"
    assert ended(*(forked(lambda: main(command), said) for _ in range(2))) == [0, 0]
    trained = list((tmp_path / "runs").glob("*/state.pt"))
    assert said.read_text().count("trained here") == len(trained) == 3
