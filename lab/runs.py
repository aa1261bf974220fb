"""Jobs and runs: a training that is wanted, and one that is trained and kept."""

from __future__ import annotations

import contextlib
import platform
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from data import Splits
from lab.files import (
    Busy,
    Damaged,
    only_process,
    read_epochs,
    read_identity,
    read_json,
    read_state,
    run_folder,
    run_hash,
    run_identity,
    write_json,
    write_state,
)
from lab.ranks import Ranks, joined, started
from lab.show import Progress
from lab.starts import spectrum_of, start
from lab.training import (
    best_epoch,
    check_epoch,
    choose_device,
    choose_precision,
    device_name,
    fresh,
    has_bf16,
    is_finished,
    make_optimizer,
    mean_terms,
    measured_precision,
    on_device,
    seconds_per_image,
    train_epoch,
    usable,
    warn_if_device_differs,
)
from vae_helpers import VAE, Recipe, build

# ---- runs


@dataclass
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
        """What the training takes at the pace of its median epoch."""
        return self.pace * len(self.history)

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


# ---- jobs


@dataclass(frozen=True)
class Job:
    """A training that is wanted: a recipe on splits, how long, from which seed, where and how."""

    recipe: Recipe
    splits: Splits
    epochs: int = 0                 # 0: the recipe's own
    seed: int = 0
    runs: str | Path = "runs"
    device: str = "auto"
    wanted: str = "auto"            # precision

    def __post_init__(self):
        recipe, images = self.recipe, self.splits.train.images
        if recipe.patience and self.splits.heldout is None:
            raise ValueError(f"{recipe.name} stops early, so it needs a held-out set")
        if tuple(images.shape[1:]) != (3, recipe.side, recipe.side):
            raise ValueError(f"{recipe.name} takes images of 3x{recipe.side}x{recipe.side}, not "
                             + "x".join(map(str, images.shape[1:])))
        object.__setattr__(self, "epochs", self.epochs or recipe.epochs)

    @cached_property
    def where(self) -> torch.device:
        return choose_device(self.device)

    @cached_property
    def precision(self) -> str:
        """The one asked for; for "auto" that of a run that is begun, else the faster one here."""
        if self.wanted != "auto":
            return choose_precision(self.wanted, self.where)
        for precision in ("bf16", "fp32"):
            if (run_folder(self.runs, self._identity(precision)) / "state.pt").exists():
                return precision
        return faster_precision(Path(self.runs), self.where)

    def _identity(self, precision: str) -> dict:
        made = run_identity(self.recipe, self.splits.train, self.splits.heldout, self.seed,
                            self.epochs, precision)
        together = self.recipe.norm and not started().alone
        return made | ({"batch statistics": "over processes"} if together else {})

    @property
    def identity(self) -> dict:
        return self._identity(self.precision)

    @property
    def folder(self) -> Path:
        return run_folder(self.runs, self.identity)

    @property
    def history(self) -> list[dict]:
        """The epochs that are trained, read without the weights; [] for none."""
        path = self.folder / "state.pt"
        return read_epochs(path, self.identity) if path.exists() else []

    @property
    def finished(self) -> bool:
        """Whether no epoch is left; a run that stopped early is finished."""
        return is_finished(self.recipe, self.history, self.epochs)

    @property
    def minutes_left(self) -> float:
        """About how long the rest takes here: by its own pace, else by a few steps on noise."""
        history = self.history
        if is_finished(self.recipe, history, self.epochs):
            return 0.0
        n = len(self.splits.train)
        precision = usable(self.precision, self.where)
        seconds = (median_seconds(history) if history
                   else n * pace_of(like(self.recipe), self.where, precision))
        return (self.epochs - len(history)) * seconds / 60

    def train(self, progress: Progress | None = None) -> Run:
        """Trains what is left, or loads what is finished; after every epoch the folder holds all
        that the next one needs. What it hands out is always what the disk holds."""
        progress = progress or Progress(f"{self.recipe.name}: {self.epochs} epochs, "
                                        f"{len(self.splits.train):,} images, seed {self.seed}")
        ranks = joined(self.where)
        if not ranks.alone:                     # one machine's measurement decides for all
            self.__dict__["precision"] = ranks.agree(self.precision if ranks.first else "")
        trained_here = not self.finished
        if trained_here:
            refuse_slow_bf16(self)
            warn_if_device_differs(self.recipe, self.where, progress.line)
            train_together(self, progress, ranks)
        model, history = load(self, progress)
        if not trained_here:
            log_epochs(history, self.epochs, progress)
        progress.done()
        return Run(self.recipe, model.eval(), history, self.folder, self.identity, trained_here)


def like(recipe: Recipe) -> Recipe:
    """The recipe without what a step's time does not depend on."""
    loss = {} if recipe.start != "random" else dict(reconstruction="sse", sigma=None)
    return recipe.but(name="like", beta=1.0, lr=1e-3, epochs=1, patience=0, noise=True, latent=128,
                      **loss)


@cache
def pace_of(recipe: Recipe, device: torch.device, precision: str) -> float:
    """Seconds an image, measured once."""
    return seconds_per_image(recipe, device, precision)


def refuse_slow_bf16(job: Job) -> None:
    """Training in bf16 where there are no instructions for it would take days."""
    if job.precision == "bf16" and not has_bf16(job.where):
        raise ValueError(f"{job.recipe.name} cannot be trained in bf16 here: this {job.where.type} "
                         "multiplies it hundreds of times slower than fp32; set PRECISION = 'fp32'")


def faster_precision(runs: Path, device: torch.device) -> str:
    """fp32 where there are no instructions for bf16, else what was measured faster on a CPU.

    One measurement for a kind of machine and version of torch, kept beside the runs.
    """
    if device.type != "cpu" or not has_bf16(device):
        return "bf16" if has_bf16(device) else "fp32"
    path, kind = runs / "machine.json", torch.backends.cpu.get_cpu_capability()
    here = f"{platform.machine()} {kind}, {torch.get_num_threads()} threads, {torch.__version__}"
    try:
        known = read_json(path, dict)
    except Damaged:                                      # or not there: it is only a measurement
        known = {}
    if known.get(here) not in ("bf16", "fp32"):
        known[here] = measured_precision(device)
        runs.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    return known[here]


def train_together(job: Job, progress: Progress, ranks: Ranks) -> None:
    """Trains what is left, alone or with others; the first process holds the folder for all."""
    if job.recipe.norm and not ranks.alone and job.where.type != "cuda":
        raise ValueError(f"{job.recipe.name} has batch normalisation, which takes its statistics "
                         "from a part of each batch on a CPU: train it in one process")
    with contextlib.ExitStack() as held:
        trouble = ""
        try:
            if ranks.first:
                held.enter_context(only_process(job.folder))
        except Busy as busy:
            trouble = str(busy)
        if trouble := ranks.agree(trouble):
            raise Busy(trouble)
        train_to_end(job, progress, ranks)
        ranks.wait()                                     # until the first one has written


def train_to_end(job: Job, progress: Progress, ranks: Ranks) -> None:
    """The remaining epochs of a job, saved one by one."""
    recipe, (train, heldout, test) = job.recipe, job.splits
    model, optimizer, history = begin(job, progress, ranks)
    log_epochs(history, job.epochs, progress)
    images = on_device(train.images, job.where)
    sets = [(f"{kind}_", s.images) for kind, s in (("heldout", heldout), ("test", test)) if s]
    while not is_finished(recipe, history, job.epochs):
        record = train_epoch(model, optimizer, images, seed=job.seed, epoch=len(history) + 1,
                             epochs=job.epochs, precision=job.precision, tick=progress.tick,
                             folder=job.folder, ranks=ranks)
        for prefix, held in sets:
            record |= mean_terms(model, held, prefix, ranks, precision=job.precision,
                                 seed=job.seed)
        check_epoch(model, record, job.folder)
        history.append(record | {"device": device_name(job.where)})
        if ranks.first:
            save(job, model, optimizer, history)
        log_epochs(history[-1:], job.epochs, progress)


def begin(job: Job, progress: Progress, ranks: Ranks) -> tuple[VAE, Optimizer, list[dict]]:
    """Model, optimizer and history as the last finished epoch left them, or at the start."""
    folder = job.folder
    begun = (folder / "state.pt").exists()
    if ranks.first and not begun and job.recipe.schedule == "constant":
        borrow_shorter(job, progress)
    ranks.wait()
    model = fresh(job.recipe, job.where, job.seed)
    if job.recipe.norm and not ranks.alone:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if job.recipe.start != "random" and not begun:
        start(model, spectrum_of(job.recipe, job.splits.train.images))
    optimizer = make_optimizer(model)
    history = restore(job, model, optimizer)
    if ranks.first:
        write_json(folder / "run.json", {"identity": job.identity, "torch": torch.__version__,
                                         "python": platform.python_version()})
    ranks.same_start(model)
    return model, optimizer, history


def save(job: Job, model: VAE, optimizer, history: list[dict]) -> None:
    """Writes what the next epoch needs; the best weights first, so that no state points to
    missing ones, and the readable history last."""
    weights = model.state_dict()
    if job.recipe.patience and best_epoch(history) is history[-1]:
        write_state(job.folder / "best.pt", job.identity, model=weights)
    write_state(job.folder / "state.pt", job.identity, model=weights,
                optimizer=optimizer.state_dict(), history=history)
    write_json(job.folder / "history.json", history)


def restore(job: Job, model: VAE, optimizer) -> list[dict]:
    """Puts the last finished epoch into model and optimizer; its history, [] at the start."""
    path = job.folder / "state.pt"
    if not path.exists():
        return []
    state, _ = read_run(job.folder, job.identity, model, job.where)["state.pt"]
    put_weights(model, state["model"], path)
    try:
        optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as error:
        raise Damaged(path, "holds another optimizer") from error
    return state["history"]


def read_run(folder: Path, identity: dict, model: VAE, device) -> dict[str, tuple[dict, bool]]:
    """All files with tensors of a run, as `read_state` gives them, once each fits the model; the
    model then has the weights that the run ends with."""
    files = {}
    for name in ("state.pt", "best.pt") if model.recipe.patience else ("state.pt",):
        if not (folder / name).exists():
            raise Damaged(folder / name, "is missing")
        files[name] = read_state(folder / name, identity, device)
        put_weights(model, files[name][0]["model"], folder / name)
    return files


def put_weights(model: VAE, weights: dict, path: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise Damaged(path, "holds weights of another shape") from error


def load(job: Job, progress: Progress) -> tuple[VAE, list[dict]]:
    """The finished run's model and history; a file that did not say whose it is now does."""
    model = fresh(job.recipe, job.where)
    files = read_run(job.folder, job.identity, model, job.where)
    renewed = [name for name, (_, signed) in files.items() if not signed]
    for name in renewed:
        with only_process(job.folder):
            write_state(job.folder / name, job.identity, **files[name][0])
    if renewed:
        progress.line(f"{job.folder}: {' and '.join(renewed)} now say whose they are")
    return model, files["state.pt"][0]["history"]


def borrow_shorter(job: Job, progress: Progress) -> None:
    """Begins from the longest shorter run that is alike in all but its epochs, as this one would
    pass through there; what cannot be read is named and left alone."""
    longest, most = {}, 0
    for path in sorted(job.folder.parent.glob(f"{job.recipe.name}-*/run.json")):
        try:
            files = read_shorter(path.parent, job)
        except Damaged as trouble:
            progress.line(f"not borrowed from: {trouble}")
            continue
        epochs = len(files["state.pt"][0]["history"]) if files else 0
        if epochs > most:
            longest, most = files, epochs
    for name in reversed(longest):                       # state last: with it the run is begun
        write_state(job.folder / name, job.identity, **longest[name][0])


def read_shorter(folder: Path, job: Job) -> dict[str, tuple[dict, bool]]:
    """The files of a run, {} if it is not a shorter one that is alike or has no epoch yet."""
    other, identity = read_identity(folder), job.identity
    alike = {**other, "epochs": 0} == {**identity, "epochs": 0}
    if not alike or other["epochs"] >= job.epochs or not (folder / "state.pt").exists():
        return {}
    return read_run(folder, other, build(job.recipe), "cpu")


def log_epochs(history: list[dict], epochs: int, progress: Progress) -> None:
    """One line an epoch, without times, so that equal runs print equal text."""
    for h in history:
        line = (f"epoch {h['epoch']:2d}/{epochs}  training {h['loss']:8.2f} = "
                f"{h['reconstruction']:.2f} + KL {h['kl']:.2f}")
        for kind, name in (("heldout", "held-out"), ("test", "test")):
            line += f"   {name} {h[f'{kind}_loss']:.2f}" if f"{kind}_loss" in h else ""
        progress.line(line)
