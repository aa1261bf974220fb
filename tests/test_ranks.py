"""One training on several processes is the same training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import EARLY, TINY, job, state, without_times

from lab.ranks import ALONE, Ranks, started
from vae_helpers import build, elbo_terms

pytestmark = pytest.mark.usefixtures("one_thread")
TESTS = Path(__file__).parent
PLAIN = TINY.but(name="plain", norm=False, epochs=2)      # 35 images, batches of 10: the last has 5
SHORT, LONG = PLAIN.but(epochs=1), PLAIN.but(epochs=400)

WORKER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_ranks, tiny
from torch import distributed

def train(folder, names):
    for name in names:
        try:
            tiny.job(f"{folder}/{name}", getattr(test_ranks, name)).train()
        except ValueError as error:
            print("error:", error)
    distributed.destroy_process_group()

children = []
for rank in range(int(os.environ["WORLD_SIZE"])):           # forked, so that all import once
    child = os.fork()
    if child == 0:
        os.environ["RANK"] = str(rank)
        train(sys.argv[2], sys.argv[3:])
        sys.stdout.flush()
        os._exit(0)
    children.append(child)
print(*children, file=sys.stderr, flush=True)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def begun(n, folder, *names):
    """Starts n processes, as torchrun does, that train these recipes of this file together."""
    port = 20_000 + (os.getpid() * 7 + n) % 20_000
    environment = os.environ | {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1",
                                "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", WORKER, str(TESTS), str(folder), *names],
                            env=environment, text=True, cwd=TESTS.parent, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def output_of(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


# ---- parts of a batch


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 5, 10])
def test_every_row_is_in_one_part(n, length):
    parts = [list(range(length))[Ranks(rank, n).rows(length)] for rank in range(n)]
    assert sorted(sum(parts, [])) == list(range(length))
    assert [Ranks(rank, n).own(length) for rank in range(n)] == list(map(len, parts))


def test_shares_of_means_add_up_to_the_gradient_of_the_whole_batch():
    """What add_gradients relies on: sum over parts of (rows / all rows) × mean gradient."""
    x, eps = torch.rand(5, 3, 8, 8), torch.randn(5, 3)

    def gradients(rows):
        model = build(PLAIN).double()
        elbo_terms(model, x[rows].double(), eps[rows].double()).loss(1.0).mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    parts = [gradients(Ranks(rank, 2).rows(5)) * Ranks(rank, 2).own(5) / 5 for rank in range(2)]
    assert torch.allclose(sum(parts), gradients(slice(None)), rtol=1e-5, atol=1e-7)


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert started().alone and started().first and ALONE.rows(7) == slice(0, 7, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert (started().rank, started().n, started().first) == (2, 4, False)


# ---- together


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return {recipe.name: job(tmp_path_factory.mktemp("alone"), recipe).train()
            for recipe in (PLAIN, EARLY)}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes and four have trained, and what the two said."""
    folder = tmp_path_factory.mktemp("together")
    four, two = begun(4, folder / "four", "PLAIN"), begun(
        2, folder / "two", "PLAIN", "EARLY", "SHORT", "TINY")
    output_of(four)
    return folder, output_of(two)


def assert_alike(one, other):
    """Losses of every epoch to 1e-3, weights to 1e-5 but for one in a thousand entries: Adam
    divides rounding by rounding."""
    for a, b in zip(without_times(one.history), without_times(other.history), strict=True):
        assert a.pop("device") == b.pop("device") and a == pytest.approx(b, rel=1e-3)
    a, b = (torch.cat([v.flatten() for v in run.model.state_dict().values()])
            for run in (one, other))
    assert ((a - b).abs() > 1e-5 + 1e-5 * b.abs()).double().mean() <= 1e-3


@pytest.mark.parametrize("n", ["two", "four"])
def test_processes_together_train_what_one_does(alone, together, n):
    run = job(together[0] / n / "PLAIN", PLAIN).train()
    assert not run.trained_here and len(run.history) == 2
    assert_alike(run, alone["plain"])


def test_early_stopping_stops_all_of_them_in_the_same_epoch(alone, together):
    run = job(together[0] / "two" / "EARLY", EARLY).train()
    assert not run.trained_here and len(run.history) == len(alone["early"].history) < EARLY.epochs
    assert run.chosen["epoch"] == alone["early"].chosen["epoch"]


def test_a_run_that_two_began_ends_on_one(alone, together):
    run = job(together[0] / "two" / "SHORT", PLAIN).train()         # borrows the first epoch
    assert run.trained_here
    assert_alike(run, alone["plain"])


def test_batch_normalisation_is_refused_on_a_cpu_in_one_sentence(together):
    folder, out = together
    refusals = [line for line in out.splitlines() if line.startswith("error:")]
    assert len(refusals) == 2 and all("batch normalisation" in line for line in refusals)
    assert not list((folder / "two" / "TINY").glob("*/state.pt"))


def test_statistics_over_processes_are_part_of_the_identity(tmp_path, monkeypatch):
    lone = {name: job(tmp_path, recipe).identity for name, recipe in (("t", TINY), ("p", PLAIN))}
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert job(tmp_path, TINY).identity != lone["t"] and job(tmp_path, PLAIN).identity == lone["p"]


def test_a_killed_process_leaves_a_whole_checkpoint(alone, tmp_path):
    parent, long = begun(2, tmp_path, "LONG"), job(tmp_path / "LONG", LONG)
    first, second = map(int, parent.stderr.readline().split())
    deadline = time.monotonic() + 60
    while not (long.folder / "history.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(second, signal.SIGKILL)
    os.kill(first, signal.SIGTERM)                          # as torchrun does then
    parent.communicate()
    kept = long.history
    assert 0 < len(kept) < 400 and state(long.folder)["history"] == kept
    assert kept[0]["loss"] == pytest.approx(alone["plain"].history[0]["loss"], rel=1e-3)


# ---- a list of trainings as a queue


def test_two_workers_over_one_list_train_each_run_once(tmp_path):
    command = [sys.executable, "-m", "lab", "train", "p1-fc", "p2-fc", "--epochs", "1",
               "--limit", "120", "--data", "standin", "--precision", "fp32", "--device", "cpu",
               "--runs", str(tmp_path), "--seed", "0", "1"]
    workers = [subprocess.Popen(command, cwd=TESTS.parent, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
               for _ in range(2)]
    outputs = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    said = "".join(out for out, _ in outputs)
    assert said.count("trained here") == len(list(tmp_path.glob("*/state.pt"))) == 4
    assert all(len(json.loads(path.read_text())) == 1 for path in tmp_path.glob("*/history.json"))
