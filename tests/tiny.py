"""What is small enough for a test: trainings of a second, a linear model, images of noise."""

import os
import signal
import sys
import time
import traceback

import pytest
import torch

import data
from data import Splits
from lab.linear import Spectrum
from lab.notebook import Lab
from lab.runs import Job
from lab.show import Table
from vae_helpers import Recipe

TINY = Recipe("tiny", side=8, widths=(4, 8), latent=3, batch=10, epochs=4)
EARLY = TINY.but(name="early", reconstruction="sse", norm=False, patience=1, min_delta=0.0,
                 lr=1e-2, epochs=8)
LINEAR = Recipe("plain", network="fc", widths=(), norm=False, link="identity",
                reconstruction="sse", side=4, latent=3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bytes(*shape, low=0, high=256, seed=0):
    return torch.randint(low, high, shape, dtype=torch.uint8, generator=generator(seed))


def grey(n=40, side=4, seed=0):
    """Images of white noise, bytes."""
    return random_bytes(n, 3, side, side, seed=seed)


def noise_images(n=35, side=8, seed=0):
    """Blotches: each image has a colour of its own, so that there is something to learn."""
    colour = torch.randint(40, 216, (n, 3, 1, 1), generator=generator(seed))
    grain = torch.randint(-20, 21, (n, 3, side, side), generator=generator(seed + 1))
    return data.ImageSet(
        name="cifar10", split="train", images=(colour + grain).to(torch.uint8),
        labels=torch.zeros(n).long(), label_names=("noise",), source=f"noise of seed {seed}",
        real=False)


IMAGES, HELDOUT, TEST = noise_images(), noise_images(20, seed=5), noise_images(15, seed=8)


def job(runs, recipe=TINY, train=IMAGES, heldout=None, test=None, **more):
    """The job of a recipe on blotches; one that stops early has held-out images."""
    heldout = HELDOUT if heldout is None and recipe.patience else heldout
    return Job(recipe, Splits(train, heldout, test), runs=runs,
               **{"epochs": recipe.epochs, "device": "cpu", "wanted": "fp32", **more})


def run(runs, recipe=TINY, **more):
    return job(runs, recipe, **more).train()


class Trap:
    """Makes a folder where one works when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("was here",)


class Stopped(BaseException):
    """Stands for the end of the process: nothing in the program catches it."""

def first_epoch_of(wanted):
    """Leaves what a training that was stopped after its first epoch leaves."""
    def stop(history, *rest):
        if history:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("lab.runs.log_epochs", stop)
        wanted.train()


def short_lab(runs, limit, **more):
    """The notebook's object for a short run on so many drawn images."""
    return Lab({"EPOCHS": 1, "TRAIN_LIMIT": limit, "DATA": "standin", "DEVICE": "cpu",
                "PRECISION": "fp32", "RUNS": str(runs), **more})


def planted(*eigenvalues):
    """A spectrum of these eigenvalues, of as many pixels."""
    values, n = torch.tensor(eigenvalues, dtype=torch.float64), len(eigenvalues)
    return Spectrum(values, torch.eye(n).double(), torch.full((n,), 0.5).double(),
                    values.sum().item())


def put_linear(model, best):
    """Gives a model without hidden layers the parameters of a closed-form linear VAE."""
    with torch.no_grad():
        model.to_mu.weight.copy_(best.encoder)
        model.to_mu.bias.copy_(-best.encoder @ best.mean)
        model.to_logvar.weight.zero_()
        model.to_logvar.bias.copy_(best.variance.log())
        model.decoder[0].weight.copy_(best.decoder)
        model.decoder[0].bias.copy_(best.mean)
    return model.eval()


def assert_shows(shown, kind):
    """It is of this kind and has something to show: rows, or words for who cannot see it."""
    assert isinstance(shown, kind)
    assert shown._repr_markdown_() if kind is Table else len(shown.alt) > 20


def forked(work, said, **environment):
    """Does the work in a process of its own, a copy of this one, which need not import anew.

    The process's number; it ends with the status that the work gives, and what it says is
    appended to the file `said`.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ.update(environment)
            file = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(file, 1), os.dup2(file, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)
    return child


def ended(*children):
    """The statuses of processes, once they have ended; minus a signal's number if by that."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---- what a folder holds


def state(folder):
    return torch.load(folder / "state.pt", weights_only=True)


def plain(value):
    """Nested parts with tensors as lists, without times and the digest that they decide."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()
                if key != "digest" and "seconds" not in str(key)}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value.tolist() if torch.is_tensor(value) else value


def assert_identical(one, other):
    """Two folders of a run hold the same, every tensor and every number but for times."""
    assert plain(state(one)) == plain(state(other))
    assert not list(one.glob("*.tmp")) and not list(other.glob("*.tmp"))


def assert_same_weights(*runs):
    first, *rest = (plain(each.model.state_dict()) for each in runs)
    assert all(first == other for other in rest)
