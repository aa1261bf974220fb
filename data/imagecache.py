"""Images made once from files, kept as one .npy that is memory-mapped when it is read.

The name of the .npy ends in a digest of its files' names and sizes, so that what was made of other
files is never taken for theirs. It is written beside its place and renamed once it is whole.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock

BLOCK = 256             # images decoded between two writes
WHAT = "decoding images"
Decode = Callable[[Path], np.ndarray]       # a file to (3, side, side) uint8


def cached_images(stem: Path, files: list[Path], side: int, decode: Decode, progress) -> np.ndarray:
    """The images of these files, (N, 3, side, side) uint8, decoded if that was not done before.

    They are mapped copy on write, so that nobody can change the .npy through them.
    """
    shape = len(files), 3, side, side
    path = stem.with_name(f"{stem.name}-{_key(files)}.npy")
    if _mapped(path, shape) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        progress(0, len(files), WHAT)       # perhaps another process is at it
        with FileLock(stem.with_suffix(".lock")):
            if _mapped(path, shape) is None:
                _write(path, stem.with_suffix(".part"), shape, files, decode, progress)
                _remove_others(stem, path)
    return _mapped(path, shape)


def _key(files: list[Path]) -> str:
    """16 hex digits of the files' names and sizes, in their order."""
    listed = "\n".join(f"{path.name} {path.stat().st_size}" for path in files)
    return hashlib.blake2b(listed.encode(), digest_size=8).hexdigest()


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in the file; None where there is no whole one of this shape."""
    try:
        images = np.lib.format.open_memmap(path, mode="c")      # never unpickles
    except (FileNotFoundError, ValueError):                     # absent; cut or no .npy
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _write(path: Path, part: Path, shape: tuple[int, ...], files: list[Path], decode: Decode,
           progress) -> None:
    """Puts the decoded images at `path`, whole or not at all, by way of the file `part`."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    try:
        # Written, not mapped: on a full disk a write is an error and a map kills the process.
        with open(part, "wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(files), BLOCK):
                progress(start, len(files), WHAT)
                images = np.stack(list(pool.map(decode, files[start:start + BLOCK])))
                file.write(images.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    progress(len(files), len(files), WHAT)


def _remove_others(stem: Path, path: Path) -> None:
    """Removes what was made of other files under the same stem."""
    for other in {*path.parent.glob(f"{stem.name}-{'?' * 16}.npy")} - {path}:
        with contextlib.suppress(OSError):      # Windows keeps what is still mapped
            other.unlink()
