"""Files that are written whole or not at all, say whose they are, and are checked when read."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor


class Trouble(Exception):
    """Something that was foreseen: one sentence that says what is wrong, where, and what to do."""

class Refused(Trouble, ValueError):
    """What was asked for cannot be done."""


class Damaged(Trouble):
    """A file that cannot be used."""

    def __init__(self, path: Path, why: str,
                 do: str = "delete its folder to train this run anew"):
        super().__init__(f"{path} {why}: {do}")


class Busy(Trouble):
    """Another process trains this run."""


# ---- written


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes beside, flushes to disk, renames: a reader sees the old file or the new one, whole."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise Trouble(f"{path} could not be written ({error.strerror or error}); "
                      "what was there before is kept") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_json(path: Path, value) -> None:
    write_atomically(path, f"{json.dumps(value, indent=1)}\n".encode())


def write_state(path: Path, identity: dict, **parts) -> None:
    """A file of tensors and plain values that says whose it is, with a digest of all of them.

    Serialised in memory first, because `torch.save` hides why a file cannot be written.
    """
    whole = io.BytesIO()
    torch.save({**parts, "identity": json.dumps(identity, sort_keys=True),
                "digest": digest_of(parts)}, whole)
    write_atomically(path, whole.getbuffer())


# ---- read


def read_state(path: Path, identity: dict) -> dict:
    """The parts of a file that `write_state` made, once it is whole and of this identity."""
    state = _opened(path, identity)
    parts = {name: value for name, value in state.items() if name not in ("identity", "digest")}
    if state.get("digest") != digest_of(parts):
        raise Damaged(path, "is damaged (its content has another digest)")
    return parts


def read_part(path: Path, identity: dict, name: str):
    """One part of such a file, of which nothing else is read, and no digest taken."""
    return _opened(path, identity, mmap=True)[name]


def _opened(path: Path, identity: dict, mmap: bool = False) -> dict:
    """What `torch.save` put into a file of this identity, on the CPU; nothing is executed."""
    if not zipfile.is_zipfile(path):                     # a pickle would bring lines of warnings
        raise Damaged(path, "is damaged or missing")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        whose = state["identity"]
    except Exception as error:                           # a broken archive may raise anything
        raise Damaged(path, f"is damaged ({type(error).__name__})") from error
    if whose != json.dumps(identity, sort_keys=True):
        raise Damaged(path, "belongs to another run", "move it to that run's folder, or delete it")
    return state


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


# ---- one process a folder


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the system lets go of it even when that is killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / "lock", timeout=0).acquire()
    except Timeout:
        raise Busy(f"another process is training {folder}; "
                   "wait until it ends, or stop it") from None
    except OSError as error:
        raise Trouble(f"{folder} cannot be written to ({error.strerror or error}); "
                      "choose another folder, or make room in this one") from error
    with held:
        for half_written in folder.glob("*.tmp"):        # by a process that was killed
            half_written.unlink()
        yield
