"""The files of a run: whose they are, written whole or not at all, checked when they are read.

A run's folder holds run.json (its identity), state.pt (all that the next epoch needs), best.pt
(where it stops early) and history.json. The .pt files carry the identity and a digest of their
tensors and values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vae_helpers import Recipe

# ---- identity


# The fields that a recipe had when the first runs were kept. A later one is left out of the
# identity while it has its default, so that no training is orphaned.
FIELDS = ("name", "data", "side", "network", "widths", "norm", "activation", "residual", "start",
          "start_sigma2", "linear_lr", "latent", "link", "reconstruction", "sigma", "beta", "noise",
          "batch", "lr", "schedule", "clip", "patience", "min_delta")


def run_identity(recipe: Recipe, train, heldout, seed: int, epochs: int, precision: str) -> dict:
    """Everything that decides a run's result; of the sets their fingerprints."""
    fields = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in FIELDS or field.name != "epochs" and value != field.default:
            fields[field.name] = list(value) if isinstance(value, tuple) else value
    chosen_on = heldout.fingerprint if heldout is not None and recipe.patience else None
    return {"recipe": fields, "epochs": epochs, "seed": seed, "data": train.fingerprint,
            "images": len(train), "heldout": chosen_on, "precision": precision}


def run_hash(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def run_folder(runs: str | Path, identity: dict) -> Path:
    name = f"{identity['recipe']['name']}-{identity['epochs']}-{run_hash(identity)}"
    return Path(runs) / name


# ---- JSON


class Damaged(ValueError):
    """A file of a run that cannot be used: one sentence that names it."""

    def __init__(self, path: Path, why: str,
                 do: str = "delete its folder to train this run anew"):
        super().__init__(f"{path} {why}: {do}")


def write_atomically(path: Path, write: Callable[[io.BufferedIOBase], None]) -> None:
    """Writes beside, flushes to disk, renames: a reader sees the old file or the new one, whole."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} could not be written ({reason}); "
                      "what was there before is kept") from error
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=1) + "\n").encode()))


SPARE = "delete this file alone, as what is trained lies in state.pt"


def read_json(path: Path, kind: type):
    """What a JSON file of a run holds, if it is of the kind that it must be."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise Damaged(path, f"is damaged ({type(error).__name__})", SPARE) from error
    if not isinstance(value, kind):
        raise Damaged(path, f"is damaged (it holds a {type(value).__name__})", SPARE)
    return value


def read_identity(folder: Path) -> dict:
    """The identity in a folder's run.json."""
    kept = read_json(folder / "run.json", dict).get("identity")
    kinds = {"recipe": dict, "epochs": int, "seed": int, "images": int, "precision": str}
    whole = isinstance(kept, dict) and all(isinstance(kept.get(name), kind)
                                           for name, kind in kinds.items())
    if not whole or "name" not in kept["recipe"]:
        raise Damaged(folder / "run.json", "is damaged (it holds no identity)", SPARE)
    return kept


def read_history(folder: Path) -> list[dict]:
    """The epochs in a folder's history.json, [] if there is none."""
    path = folder / "history.json"
    return check_history(path, read_json(path, list)) if path.exists() else []


def check_history(path: Path, history, stops: bool = False) -> list[dict]:
    """The epochs that a file holds, if each is a record of what is shown and decided by."""
    keys = ("epoch", "loss", "reconstruction", "kl", "seconds") + ("heldout_loss",) * stops
    if not isinstance(history, list) or not all(
            isinstance(h, dict) and all(isinstance(h.get(key), (int, float)) for key in keys)
            for h in history):
        raise Damaged(path, "is damaged (its epochs are no records)")
    return history


# ---- tensors


def digest_of(value) -> str:
    """A digest of all tensors and plain values in nested dicts and lists, in their order."""
    digest = hashlib.sha256()

    def add(part) -> None:
        if isinstance(part, Tensor):
            whole = part.detach().cpu().contiguous()
            digest.update(f"{whole.dtype} {tuple(whole.shape)}".encode())
            digest.update(whole.flatten().view(torch.uint8).numpy() if whole.numel() else b"")
        elif isinstance(part, (dict, list, tuple)):
            items = part.items() if isinstance(part, dict) else enumerate(part)
            for key, inner in items:
                digest.update(repr(key).encode())
                add(inner)
        else:
            digest.update(repr(part).encode())

    add(value)
    return digest.hexdigest()


def write_state(path: Path, identity: dict, **parts) -> None:
    """A .pt file of these parts that says whose it is.

    Serialised in memory first, because `torch.save` hides why a file cannot be written.
    """
    whole = io.BytesIO()
    torch.save({**parts, "identity": json.dumps(identity, sort_keys=True),
                "digest": digest_of(parts)}, whole)
    write_atomically(path, lambda file: file.write(whole.getbuffer()))


PARTS = {"model": dict, "optimizer": dict, "history": list}


def read_state(path: Path, identity: dict, device="cpu") -> tuple[dict, bool]:
    """The parts of a run's .pt file, once it is whole and this run's, and whether it says so.

    A file from before files had an identity is accepted if run.json beside it has the right one.
    """
    state = unpickled(path, device)
    signed = says_whose(path, state, identity)
    wanted = ["model"] if path.name == "best.pt" else list(PARTS)
    parts = {name: value for name, value in state.items() if name in PARTS}
    if list(parts) != wanted or not all(isinstance(parts[n], PARTS[n]) for n in wanted):
        raise Damaged(path, f"does not hold {', '.join(wanted)}, and these alone")
    if signed and state.get("digest") != digest_of(parts):
        raise Damaged(path, "is damaged (its content has another digest)")
    if "history" in parts:
        check_history(path, parts["history"], bool(identity["recipe"]["patience"]))
    return parts, signed


def read_epochs(path: Path, identity: dict) -> list[dict]:
    """The epochs that a run's state.pt holds, read without the weights."""
    state = unpickled(path, mmap=True)
    says_whose(path, state, identity)
    return check_history(path, state.get("history"), bool(identity["recipe"]["patience"]))


def says_whose(path: Path, state: dict, identity: dict) -> bool:
    """Whether the file itself, not only run.json beside it, says that it is this run's."""
    signed = bool({"identity", "digest"} & state.keys())
    kept = (state.get("identity") if signed
            else json.dumps(read_identity(path.parent), sort_keys=True))
    if kept != json.dumps(identity, sort_keys=True):
        raise Damaged(path, "belongs to another run", "move it to that run's folder, or delete it")
    return signed


def unpickled(path: Path, device="cpu", mmap: bool = False) -> dict:
    """What `torch.save` put into a file, if it was a dict; nothing in it is executed."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":                # a pickle would bring lines of warnings
            raise Damaged(path, "is damaged (no file of this project begins so)")
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except Exception as error:                           # a broken archive may raise anything
        raise Damaged(path, f"is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise Damaged(path, f"is damaged (it holds a {type(state).__name__})")
    return state


# ---- one process a run


class Busy(RuntimeError):
    """Another process trains this run."""


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the system lets go of it even when that is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(f"another process is training {folder}; "
                   "wait until it ends, or stop it") from None
    try:
        for half_written in folder.glob("*.tmp"):        # by a process that was killed
            half_written.unlink()
        yield
    finally:
        lock.release()
