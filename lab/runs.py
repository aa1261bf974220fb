"""Jobs and runs: a training that is wanted, and one that is trained and kept.

A run's folder holds state.pt, all that the next epoch needs, and run.json, which tells people, and
commands that look for runs, what is in it. Under torchrun several processes train one run together:
each takes its rows of every batch, and the first alone reads and writes the folder, settles,
evaluates, and tells the others.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data import Splits
from lab.files import (
    Busy,
    Refused,
    Trouble,
    only_process,
    read_part,
    read_state,
    write_json,
    write_state,
)
from lab.linear import spectrum_of, start
from lab.show import Progress
from lab.training import (
    best_epoch,
    check_epoch,
    choose_device,
    choose_precision,
    device_name,
    evaluate,
    fresh,
    has_bf16,
    is_finished,
    make_optimizer,
    on_device,
    settled,
    summary,
    train_epoch,
)
from vae_helpers import VAE, Recipe, elbo_terms

RESULTS = Path(__file__).parents[1] / "figures" / "results.json"

# ---- identity


def run_identity(recipe: Recipe, train, heldout, seed: int, epochs: int, precision: str,
                 processes: int = 1) -> dict:
    """Everything that decides a run's result; of the sets their fingerprints.

    A field of the recipe at its default is left out, so that a later one orphans no run.
    """
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)
              if getattr(recipe, field.name) != field.default and field.name != "epochs"}
    chosen_on = heldout.fingerprint if recipe.patience else None
    made = {"recipe": fields, "epochs": epochs, "seed": seed, "data": train.fingerprint,
            "images": min(recipe.images or len(train), len(train)), "heldout": chosen_on,
            "precision": precision}
    # Batch normalisation takes its statistics from the rows of each process.
    return made | ({"processes": processes} if processes > 1 and recipe.batchnorm else {})


def run_hash(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def recipe_of(identity: dict) -> Recipe:
    """The recipe that an identity tells, perhaps one that came from JSON."""
    fields = identity["recipe"] | {"epochs": identity["epochs"]}
    return Recipe(**{name: tuple(value) if isinstance(value, list) else value
                     for name, value in fields.items()})


def run_folder(runs: str | Path, identity: dict) -> Path:
    name = f"{identity['recipe']['name']}-{identity['epochs']}-{run_hash(identity)}"
    return Path(runs) / name


# ---- runs


@dataclass(eq=False)        # each is its own key
class Run:
    """A trained model, how its training went, and where it is kept."""

    recipe: Recipe
    model: VAE
    history: list[dict]
    folder: Path
    identity: dict
    trained_here: bool      # False: loaded

    @property
    def last(self) -> dict:
        return self.history[-1]

    @property
    def chosen(self) -> dict:
        """The epoch whose weights the model has: the best held-out one of an early-stopped run."""
        return best_epoch(self.history) if self.recipe.patience else self.last

    @property
    def pace(self) -> float:
        """Seconds of the median epoch, which other work on the machine disturbs least."""
        return median_seconds(self.history)

    @property
    def seconds(self) -> float:
        return seconds_of(self.history)

    @property
    def device(self) -> str:
        return self.last["device"]

    @property
    def precision(self) -> str:
        return self.identity["precision"]

    @property
    def hash(self) -> str:
        return run_hash(self.identity)

    def curve(self, key: str) -> list[float]:
        return [h[key] for h in self.history]

    def __repr__(self):
        how = "trained here" if self.trained_here else "loaded"
        best = f" (best: {self.chosen['epoch']})" if self.recipe.patience else ""
        return (f"{self.recipe.name}, {len(self.history)} epochs{best} on "
                f"{self.identity['images']:,} images, {how} ({self.device}, {self.precision}, "
                f"{self.seconds:,.0f} s), run {self.hash}: loss {self.chosen['loss']:.1f}, "
                f"KL {self.chosen['kl']:.1f}")


def median_seconds(history: list[dict]) -> float:
    return torch.tensor([h["seconds"] for h in history]).median().item()


def seconds_of(history: list[dict]) -> float:
    """What a training takes at the pace of its median epoch, its start included."""
    return history[0]["start_seconds"] + median_seconds(history) * len(history)


# ---- jobs


@dataclass(frozen=True)
class Job:
    """A training that is wanted: a recipe on splits, how long, from which seed, where and how."""

    recipe: Recipe
    splits: Splits
    epochs: int
    seed: int = 0
    runs: str | Path = "runs"
    device: str = "auto"
    wanted: str = "auto"            # precision

    @cached_property
    def where(self) -> torch.device:
        """The device; under torchrun on GPUs, the one of this process's number on its host."""
        device = choose_device(self.device)
        if device.type == "cuda" and processes()[1] > 1:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        return device

    @property
    def images(self) -> Tensor:
        """The images that are trained on."""
        return self.splits.train.images[:self.recipe.images or None]

    @cached_property
    def precision(self) -> str:
        """The one asked for; else that of a finished run, of a begun one that this machine can go
        on with, or the one that a new training has here."""
        if self.wanted != "auto":
            return choose_precision(self.wanted, self.where)
        kept = {p: epochs for p in ("bf16", "fp32") if (epochs := self.epochs_in(p))}
        done = [p for p, history in kept.items()
                if is_finished(self.recipe, history, self.epochs)]
        begun = [p for p in kept if p == "fp32" or has_bf16(self.where)]
        return (done + begun + [choose_precision("auto", self.where)])[0]

    def epochs_in(self, precision: str) -> list[dict]:
        """The epochs that are trained in a precision, read without the weights; [] for none."""
        identity = self.identity_in(precision)
        path = run_folder(self.runs, identity) / "state.pt"
        return read_part(path, identity, "history") if path.exists() else []

    def identity_in(self, precision: str) -> dict:
        return run_identity(self.recipe, self.splits.train, self.splits.heldout, self.seed,
                            self.epochs, precision, processes()[1])

    @property
    def identity(self) -> dict:
        return self.identity_in(self.precision)

    @property
    def folder(self) -> Path:
        return run_folder(self.runs, self.identity)

    @property
    def history(self) -> list[dict]:
        return self.epochs_in(self.precision)

    @property
    def finished(self) -> bool:
        """Whether no epoch is left; a run that stopped early is finished."""
        return is_finished(self.recipe, self.history, self.epochs)

    def train(self, progress: Progress | None = None) -> Run | None:
        """Trains what is left, or loads what is finished; after every epoch the folder holds all
        that the next one needs, and what is handed out is what the disk holds. None to all but the
        first of several processes."""
        progress = progress or Progress(f"{self.recipe.name}: {self.epochs} epochs, "
                                        f"{len(self.images):,} images, seed {self.seed}")
        with connected(self.where):
            job = dataclasses.replace(self, wanted=from_first(lambda: self.precision))
            refuse_strangers(job.identity)
            trained_here = not from_first(lambda: job.finished)
            if trained_here:
                train_to_end(job, progress)
        if processes()[0] > 0:
            return None
        model, history = load(job.recipe, job.folder, job.identity, job.where)
        if not trained_here:
            log_epochs(history, job.epochs, progress)
        progress.done()
        return Run(job.recipe, model, history, job.folder, job.identity, trained_here)


# ---- training


def train_to_end(job: Job, progress: Progress) -> None:
    """The remaining epochs of a job, saved one by one."""
    recipe = job.recipe
    if job.precision == "bf16" and not has_bf16(job.where):
        raise Refused(f"{recipe.name} cannot be trained in bf16 here: this {job.where.type} "
                      "multiplies it hundreds of times slower than fp32; set PRECISION = 'fp32'")
    with contextlib.ExitStack() as held:
        from_first(lambda: held.enter_context(only_process(job.folder)))
        state = from_first(lambda: state_of(job))
        model, optimizer, history = begin(job, state)
        together, images = wrapped(model), on_device(job.images, job.where)
        say_what_it_took(job, progress)
        log_epochs(history, job.epochs, progress)
        while not is_finished(recipe, history, job.epochs):
            record = train_epoch(model, optimizer, images, seed=job.seed, epoch=len(history) + 1,
                                 epochs=job.epochs, precision=job.precision, tick=progress.tick,
                                 folder=job.folder, together=together)
            record["start_seconds"] = state["start_seconds"]
            work = partial(end_epoch, job, model, optimizer, images, state, record)
            history.append(from_first(work))
            log_epochs(history[-1:], job.epochs, progress)


def state_of(job: Job) -> dict:
    """What the last finished epoch left; at the start weights of the seed, or the best linear VAE
    where a recipe starts there."""
    path, began = job.folder / "state.pt", time.perf_counter()
    if path.exists():
        return read_state(path, job.identity)
    model = fresh(job.recipe, torch.device("cpu"), job.seed)
    if job.recipe.start != "random":
        start(model, spectrum_of(job.recipe, job.images))
    return {"model": model.state_dict(), "optimizer": None, "history": [], "best": None,
            "start_seconds": time.perf_counter() - began}


def begin(job: Job, state: dict) -> tuple[VAE, torch.optim.Optimizer, list[dict]]:
    """Model, optimizer and history of a state."""
    model = fresh(job.recipe, job.where)
    model.load_state_dict(state["model"])
    if not job.recipe.noise:                    # z = mu, so nothing would reach it
        model.to_logvar.requires_grad_(False)
    if processes()[1] > 1 and job.where.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = make_optimizer(model)
    if state["optimizer"]:
        optimizer.load_state_dict(state["optimizer"])
    return model, optimizer, state["history"]


def end_epoch(job: Job, model: VAE, optimizer, images: Tensor, state: dict,
              record: dict) -> dict:
    """Settles and evaluates an epoch's model, and writes it with all that the next epoch needs;
    the epoch's whole record."""
    began = time.perf_counter()
    model = settled(model, images, precision=job.precision, seed=job.seed)
    record = record | {"seconds": record["seconds"] + time.perf_counter() - began}
    sets = {"heldout": job.splits.heldout, "test": None if job.recipe.trial else job.splits.test}
    for kind, held in sets.items():
        if held is not None:
            record |= summary(job.recipe, evaluate(model, held.images, seed=job.seed), f"{kind}_")
    check_epoch(model, record, job.folder)
    record["device"] = device_name(job.where)
    history = [*state["history"], record]
    weights = model.state_dict()
    if job.recipe.patience and best_epoch(history) is record:
        state["best"] = {name: value.clone() for name, value in weights.items()}
    write_state(job.folder / "state.pt", job.identity, model=weights, history=history,
                optimizer=optimizer.state_dict(), best=state["best"],
                start_seconds=state["start_seconds"])
    write_json(job.folder / "run.json", {"identity": job.identity, "torch": torch.__version__,
                                         "python": platform.python_version(), "history": history})
    return record


def load(recipe: Recipe, folder: Path, identity: dict, device) -> tuple[VAE, list[dict]]:
    """The finished run's model, of its best epoch if it stops early, and its history."""
    state = read_state(folder / "state.pt", identity)
    model = fresh(recipe, device)
    model.load_state_dict(state["best" if recipe.patience else "model"])
    return model.eval(), state["history"]


def kept_identities(runs: str | Path) -> list[dict]:
    """The identities that the folders of runs tell, begun or finished; other folders are none."""
    found = []
    for path in sorted(Path(runs).glob("*/run.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            identity = json.loads(path.read_text(encoding="utf-8"))["identity"]
            recipe_of(identity)                         # which may be none of today's
            found.append(identity)
    return found


def kept_model(runs: str | Path, identity: dict) -> VAE | None:
    """A finished run's model on the CPU, found without its images; None if an epoch is left."""
    recipe, folder = recipe_of(identity), run_folder(runs, identity)
    history = read_part(folder / "state.pt", identity, "history")
    finished = is_finished(recipe, history, identity["epochs"])
    return load(recipe, folder, identity, torch.device("cpu"))[0] if finished else None


def log_epochs(history: list[dict], epochs: int, progress: Progress) -> None:
    """One line an epoch, without times, so that equal runs print equal text."""
    for h in history:
        line = (f"epoch {h['epoch']:2d}/{epochs}  training {h['loss']:8.2f} = "
                f"{h['reconstruction']:.2f} + KL {h['kl']:.2f}")
        for kind, name in (("heldout", "held-out"), ("test", "test")):
            line += f"   {name} {h[f'{kind}_loss']:.2f}" if f"{kind}_loss" in h else ""
        progress.line(line)


def committed_trainings() -> list[dict]:
    """What results.json says of all trainings of the committed notebook; none before the first."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["trainings"] if RESULTS.exists() else []


def committed(recipe: str, epochs: int) -> dict | None:
    """What it says of such a training: minutes, device, ..."""
    return next((t for t in committed_trainings()
                 if (t["recipe"], t["epochs"]) == (recipe, epochs)), None)


def say_what_it_took(job: Job, progress: Progress) -> None:
    """One line on how long the committed training took, and on what."""
    if took := committed(job.recipe.name, job.epochs):
        progress.aside(f"the committed run took {took['minutes']:.1f} minutes on "
                       f"{took['images']:,} images ({took['device']}, {took['precision']})")


# ---- several processes


def processes() -> tuple[int, int]:
    """This process's rank, and how many train together, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def connected(device: torch.device) -> Iterator[None]:
    """Connects the processes that torchrun started, and says so where one of them is gone.

    The others wait for the first for up to an hour, which it may need to evaluate.
    """
    if processes()[1] > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo",
                                timeout=timedelta(hours=1))
        atexit.register(dist.destroy_process_group)
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no type of their own
        gone = isinstance(error, dist.DistError) or "Connection" in str(error)
        if processes()[1] == 1 or not gone:
            raise
        raise Trouble("another process of this training ended; start all of them again, and "
                      "they go on from the last whole epoch") from error


def from_first(work: Callable):
    """What the work gives on the first process, handed to all; its trouble is everybody's, and
    where another training is busy, all may go on to the next."""
    rank, n = processes()
    if n == 1:
        return work()
    said = [None, None]
    if rank == 0:
        try:
            said = [work(), None]
        except Exception as error:
            kind = Busy if isinstance(error, Busy) else Trouble
            dist.broadcast_object_list([None, (kind, str(error))], 0)
            raise
    dist.broadcast_object_list(said, 0)
    if said[1] is not None:
        kind, why = said[1]
        raise kind(f"the first process ended: {why}")
    return said[0]


def refuse_strangers(identity: dict) -> None:
    """Stops all processes where they would train different runs together."""
    said = [None] * processes()[1]
    if len(said) > 1:
        dist.all_gather_object(said, run_hash(identity))
        if len(set(said)) > 1:
            raise Trouble("the processes have different images or recipes: give all of them the "
                          "same command, and the same data where --data-root says")


class Objective(nn.Module):
    """The terms of the loss as a module's output, which is what DDP wraps."""

    def __init__(self, model: VAE):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, eps: Tensor):
        return elbo_terms(self.model, x, eps)


def wrapped(model: VAE) -> DistributedDataParallel | None:
    """The objective for several processes, whose gradients DDP averages; None for one.

    On a CPU batch normalisation keeps each process's own statistics of its own rows.
    """
    if processes()[1] == 1:
        return None
    return DistributedDataParallel(Objective(model), forward_sync_buffers=False)
