"""One training on several processes: each takes its rows of every batch, and gradients are added.

`torchrun --nproc_per_node N -m lab train NAME` starts them. All draw the same order and the same
noise, so that another number of processes differs by the order of summation alone.
"""

from __future__ import annotations

import atexit
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks:
    """This process among all that train together; alone if torchrun started none."""

    def __init__(self, rank: int = 0, n: int = 1):
        self.rank, self.n = rank, n

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.n == 1

    def rows(self, length: int) -> slice:
        """Its rows of a batch; the last batch may have fewer rows than there are processes."""
        return slice(self.rank, length, self.n)

    def own(self, length: int) -> int:
        return len(range(length)[self.rows(length)])

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if not self.alone:
            dist.all_reduce(values)
        return values

    def add_gradients(self, model: nn.Module, share: float) -> None:
        """Makes each gradient that of the whole batch, from those of means over its parts.

        `share` is this process's part of the batch. One sum of all of them in one flat tensor.
        """
        if self.alone:
            return
        gradients = [p.grad for p in model.parameters()]
        flat = torch.cat([g.flatten() for g in gradients]).mul_(share)
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]),
                                  strict=True):
            gradient.copy_(part.view_as(gradient))

    def same_start(self, model: nn.Module) -> None:
        """Gives every process the first one's weights."""
        if not self.alone:
            for value in model.state_dict().values():
                dist.broadcast(value, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if not self.alone:
            dist.barrier()

    def agree(self, text: str) -> str:
        """What the first process says, known to all."""
        said = [text]
        if not self.alone:
            dist.broadcast_object_list(said, 0)
        return said[0]


ALONE = Ranks()


def started() -> Ranks:
    """What torchrun started this process as."""
    rank, n = (int(os.environ.get(name, default)) for name, default in
               (("RANK", 0), ("WORLD_SIZE", 1)))
    return Ranks(rank, n)


def joined(device: torch.device) -> Ranks:
    """All processes that torchrun started, connected from now on; alone without any."""
    ranks = started()
    if not ranks.alone and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return ranks
