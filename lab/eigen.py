"""The largest eigenvalues and eigenvectors of the covariance of many pixels, or of few images.

The matrix that they belong to is the products of images where these are few, the covariance where
an image has few pixels, and never formed where both are many. Of a small matrix all eigenvalues are
computed; where few of many are wanted, block Krylov iteration finds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_PIXELS = 2 ** 23  # pixels converted to floats at a time: 32 MB, whatever an image's size
EXACT_IMAGES = 2048  # up to this many images their products are formed whole (32 MB)
EXACT_SIDE = 4096  # up to this many pixels the covariance is formed whole (128 MB)


def blocks(images: Tensor, rows: int = 0) -> Iterator[Tensor]:
    """The images flattened, (rows, D) at a time, on the CPU and in their own type."""
    rows = rows or max(1, BLOCK_PIXELS // max(1, images[0].numel()))
    for start in range(0, len(images), rows):
        yield images[start : start + rows].flatten(1).cpu()


def largest_eigenpairs(images: Tensor, mean: Tensor, top: int, passes: int, seed: int,
                       ) -> tuple[Tensor, Tensor, float]:
    """Eigenvalues (k,), descending, eigenvectors (D, k), and how far an eigenvalue may be off."""
    if len(images) <= min(EXACT_IMAGES, len(mean)):
        return *_of_few_images(images, mean, min(top, len(mean))), 0.0
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(len(mean), -(-top // 2), generator=draw, dtype=torch.float64)
    if len(mean) <= max(EXACT_SIDE, passes * top):
        matrix = covariance(images, mean)
        if 8 * top > len(mean):
            return *_largest(matrix, top), 0.0
        return _block_krylov(lambda basis: matrix @ basis, start, top, 24, 1e-6)
    return _block_krylov(lambda basis: _covariance_times(images, mean, basis), start, top, passes)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for LAPACK, whose threads wait for each other at every column.

    Beside another busy process two of them were measured to take up to a hundred times as long as
    one; and so the result does not depend on their number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _largest(symmetric: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The `top` largest eigenvalues of a matrix, descending, and their eigenvectors as columns."""
    with _one_thread():
        values, vectors = torch.linalg.eigh(symmetric)
    return values.flip(0)[:top], vectors.flip(1)[:, :top]


def _orthonormal(columns: Tensor, k: int = 0) -> Tensor:
    """As many orthonormal columns, or `k`, of which the first ones span what `columns` do."""
    with _one_thread():
        reflectors, scales = torch.geqrf(columns)
        more = max(0, k - columns.shape[1])
        return torch.linalg.householder_product(F.pad(reflectors, (0, more)), scales)


# ---- exactly


def _unit_and_middle(images: Tensor) -> tuple[int, float]:
    """What stands for 1 in the images' own type, and about the middle of its range."""
    return (255, 128) if images.dtype == torch.uint8 else (1, 0.5)


def _products(parts: Iterable[Tensor], size: int) -> Tensor:
    """The sum of part.T @ part over parts (rows, size) less their middle; exact for bytes.

    Bytes less 128 are integers of at most 128, so that 1,024 of their products sum exactly in the
    24 bits of float32, at float32's speed; only the sums of parts need float64.
    """
    total = torch.zeros(size, size, dtype=torch.float64)
    for part in parts:
        part = part.float() - 128 if part.dtype == torch.uint8 else part.double() - 0.5
        for end in range(512, size + 512, 512):  # on and below the diagonal: it is symmetric
            total[end - 512 : end, :end] += part[:, end - 512 : end].T @ part[:, :end]
    return total.tril() + total.tril(-1).T


def covariance(images: Tensor, mean: Tensor) -> Tensor:
    """The covariance matrix (D, D) in float64."""
    unit, middle = _unit_and_middle(images)
    offset = unit * mean - middle
    second = _products(blocks(images, rows=1024), len(mean)).div_(len(images))
    return second.addr_(offset, offset, alpha=-1).div_(unit ** 2)


def _of_few_images(images: Tensor, mean: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The exact eigenpairs through the products of images, a matrix far less than (D, D)."""
    (unit, _), x, n = _unit_and_middle(images), images.flatten(1).cpu(), len(images)
    products = _products(x.T.split(1024), n).div_(n * unit ** 2)
    products += products.mean() - products.mean(0) - products.mean(1, keepdim=True)
    values, weights = _largest(products, top)
    parts = zip(x.split(1024, 1), mean.split(1024), strict=True)
    columns = torch.cat([(part.double() - unit * centre).T @ weights for part, centre in parts])
    return F.pad(values, (0, top - len(values))), _orthonormal(columns, top)


# ---- by iteration


def _covariance_times(images: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """The covariance times `basis` (D, k) in float64, from one pass over the images."""
    unit, _ = _unit_and_middle(images)
    dtype = torch.float32 if images.dtype == torch.uint8 else images.dtype
    basis, centre = basis.to(dtype), (unit * mean).to(dtype)
    product = torch.zeros_like(basis)
    for block in blocks(images):
        block = block - centre
        product.addmm_(block.T, block @ basis)
    return product.double().div_(len(images) * unit ** 2)


def _block_krylov(times: Callable[[Tensor], Tensor], start: Tensor, top: int, passes: int,
                  tolerance: float = 0.01) -> tuple[Tensor, Tensor, float]:
    """The `top` largest eigenpairs of a symmetric map and the largest residual norm.

    `times` applies the map to a block of columns; `start` (D, block) is random. After every pass
    the map is solved on all that was spanned so far (Rayleigh-Ritz), which finds the top of a
    spectrum in far fewer passes than powers of the map do.
    """
    fresh, (size, block) = start, start.shape
    rows = torch.empty(passes * block, size, dtype=start.dtype)  # only what is filled takes memory
    inner = start[:0, :0]  # basis.T @ times(basis), growing as the basis (D, k) does
    for k in range(0, passes * block, block):
        basis = rows[:k].T
        fresh = _orthonormal(fresh)
        fresh = _orthonormal(fresh - basis @ (basis.T @ fresh))  # once leaves rounding behind
        rows[k : k + block] = fresh.T
        basis, image = rows[: k + block].T, times(fresh)
        columns = basis.T @ image
        inner = torch.cat([F.pad(inner, (0, 0, 0, block)), columns], 1)
        fresh = image.sub_(basis @ columns)
        values, vectors = _largest(inner.triu() + inner.triu(1).T, top)
        residual = (fresh @ vectors[-block:]).norm(dim=0).max().item()
        # An eigenvalue's error is about residual² / gap: 1 % here is 0.01 % or less there.
        if len(values) == top and residual <= tolerance * (values[-1] + 1e-4 * values[0]):
            break
    return values, basis @ vectors, residual
