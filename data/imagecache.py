"""Images made once from files, kept as rows of uint8 in one file that is memory-mapped.

A cache is a pair of files that only ever grows at its end: NAME.images holds the pixels, NAME.rows
three digests for each image: of the file's name, size and time; of the file's content; of the
pixels. A row is written after its pixels are on the disk, so whatever a killed build leaves is a
shorter cache, and the next build goes on from there. A cache whose files changed begins anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from data.imageset import DIGEST_BYTES, DataError, digest_images

VERSION = b"1"          # changes when the same file would give other pixels
STAT, CONTENT, PIXELS = range(3)
ROW_BYTES = 3 * DIGEST_BYTES
BLOCK = 1024            # images between two writes: at most so many are lost by a kill
PIECE = 32              # images a thread takes at once
SAMPLE = 256            # images whose pixels are compared with their digests at every opening
WAITING = "waiting for another process that fills the cache"

Decode = Callable[[Path, bytes], np.ndarray]     # a file's content to (3, side, side) uint8


def cached_images(stem: Path, files: list[Path], side: int, decode: Decode, progress
                  ) -> tuple[np.ndarray, np.ndarray, str]:
    """Images (N, 3, side, side) memory-mapped, their digests (N, 16), and why a cache was redone.

    Nothing is decoded that is cached, and nothing read when no file's name, size or time changed.
    """
    cache, stats, why = _Cache(stem, side), _stat_digests(files), ""
    if not cache.holds(stats):
        stem.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(stem.with_suffix(".lock"), lambda: progress(0, len(files), WAITING)):
            why = cache.settle(files, stats, progress)
            cache.grow(files, stats, decode, progress)
    return cache.images(len(files)), cache.rows()[:len(files), PIXELS], why


class _Cache:
    """The pair of files; `rows` is (n, 3, 16) uint8, `images` is (n, 3, side, side) uint8."""

    def __init__(self, stem: Path, side: int):
        self.shape = (3, side, side)
        self.image_bytes = 3 * side * side
        self.images_path, self.rows_path = stem.with_suffix(".images"), stem.with_suffix(".rows")

    def rows(self) -> np.ndarray:
        """The digests of all whole rows; none where there is no cache."""
        content = self.rows_path.read_bytes() if self.rows_path.exists() else b""
        whole = len(content) - len(content) % ROW_BYTES
        return np.frombuffer(content[:whole], np.uint8).reshape(-1, 3, DIGEST_BYTES)

    def images(self, n: int) -> np.ndarray:
        """The first images, copied on write so that no one can change the file through them."""
        return np.memmap(self.images_path, np.uint8, "c", shape=(n, *self.shape))

    def is_sound(self) -> bool:
        """Whether the pixels of all rows are there, and a sample of them has its digests."""
        rows = self.rows()
        there = self.images_path.stat().st_size if self.images_path.exists() else 0
        if there < len(rows) * self.image_bytes:
            return False
        if not len(rows):
            return True
        some = np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))
        return np.array_equal(digest_images(self.images(len(rows))[some]), rows[some, PIXELS])

    def holds(self, stats: np.ndarray) -> bool:
        """Whether a sound cache begins with exactly these files, untouched since."""
        return np.array_equal(self.rows()[:len(stats), STAT], stats) and self.is_sound()

    def settle(self, files: list[Path], stats: np.ndarray, progress) -> str:
        """Removes a cache that is damaged or whose files changed: why, or ""."""
        if not self.is_sound():
            self.cut(0)
            return "its cache was damaged and was made again"
        rows = self.rows().copy()
        touched = np.flatnonzero((rows[:len(files), STAT] != stats[:len(rows)]).any(1))
        for done, i in enumerate(touched):
            if done % BLOCK == 0:
                progress(done, len(touched), "reading faces whose time changed")
            if _content_digest(files[i], _read(files[i])) != rows[i, CONTENT].tobytes():
                self.cut(0)
                return f"its cache was made again because {files[i].name} changed"
        if len(touched):                    # same content under a new time: remember the time
            rows[touched, STAT] = stats[touched]
            _replace(self.rows_path, rows)
        return ""

    def grow(self, files: list[Path], stats: np.ndarray, decode: Decode, progress) -> None:
        """Appends what is missing; leaves the cache as it was found when it cannot be written."""
        found = len(self.rows())
        what = f"decoding faces to {self.shape[1]}×{self.shape[2]}"
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for start in range(found, len(files), BLOCK):
                    progress(start, len(files), what)
                    block = slice(start, start + BLOCK)
                    self.append(start, *_decoded(
                        pool, files[block], stats[block], decode, self.shape))
        except OSError as error:
            self.cut(found)
            room = (len(files) - found) * self.image_bytes / 1e6
            raise DataError(f"{self.images_path} could not be written ({error.strerror or error}): "
                            f"make room for {room:,.0f} MB and start again") from error
        progress(len(files), len(files), what)

    def append(self, start: int, images: np.ndarray, rows: np.ndarray) -> None:
        """Writes a block after `start` images: the pixels first, so that no row is without them."""
        _write_at(self.images_path, start * self.image_bytes, images)
        _write_at(self.rows_path, start * ROW_BYTES, rows)

    def cut(self, n: int) -> None:
        """Keeps the first rows only; for none removes the files, as others may have them mapped."""
        for path, size in [(self.rows_path, ROW_BYTES), (self.images_path, self.image_bytes)]:
            if n == 0:
                path.unlink(missing_ok=True)
            elif path.stat().st_size > n * size:
                # Windows refuses while the images are mapped; the rest behind the rows is ignored.
                with contextlib.suppress(OSError):
                    os.truncate(path, n * size)


def _decoded(pool, files: list[Path], stats: np.ndarray, decode: Decode, shape
             ) -> tuple[np.ndarray, np.ndarray]:
    """The images (n, 3, side, side) and rows (n, 3, 16) of these files, decoded by all threads."""
    images = np.empty((len(files), *shape), np.uint8)
    rows = np.empty((len(files), 3, DIGEST_BYTES), np.uint8)
    rows[:, STAT] = stats

    def fill(start: int) -> None:
        for i in range(start, min(start + PIECE, len(files))):
            content = _read(files[i])
            images[i] = decode(files[i], content)
            rows[i, CONTENT] = np.frombuffer(_content_digest(files[i], content), np.uint8)
        piece = slice(start, start + PIECE)
        rows[piece, PIXELS] = digest_images(images[piece])

    list(pool.map(fill, range(0, len(files), PIECE)))
    return images, rows


def _stat_digests(files: list[Path]) -> np.ndarray:
    """One digest (N, 16) of each file's name, size and time of change, without reading it."""
    joined = b"".join(_digest(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
                      for path in files for stat in [path.stat()])
    return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): "
                        "see that it is there and that you may read it") from error


def _content_digest(path: Path, content: bytes) -> bytes:
    return _digest(path.name.encode() + b"\0" + content)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES, key=VERSION).digest()


def _write_at(path: Path, offset: int, array: np.ndarray) -> None:
    """Writes the array's bytes at `offset`; when it ends they are on the disk."""
    path.touch()
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(array.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, array: np.ndarray) -> None:
    """Puts the array's bytes in the place of the file, whole or not at all."""
    beside = path.with_suffix(".new")
    try:
        beside.unlink(missing_ok=True)
        _write_at(beside, 0, array)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _one_at_a_time(path: Path, waiting: Callable[[], None]):
    """Holds the lock file's lock, which the system releases when a process ends or is killed."""
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            waiting()
    try:
        yield
    finally:
        lock.release()
