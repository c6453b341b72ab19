"""Several training processes on one machine, gradients averaged by weight.

On a CPU two single-threaded processes are faster than one with two threads (small matrices leave threads
waiting for each other). Every process takes its share of each batch; one all-reduce per step adds the gradients.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """The processes of one run; `rank` 0 logs, evaluates and saves."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[_T]) -> list[_T]:
        """Every `size`-th item of a batch; a batch smaller than the group goes to all whole."""
        return list(items) if len(items) < self.size else list(items[self.rank :: self.size])

    def total(self, value: float) -> float:
        """The sum of `value` over all processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(tensor)
        return float(tensor.item())

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over all processes. Parameters that got none here take part with zeros."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained])
        distributed.all_reduce(flat)
        for parameter, gradient in zip(trained, torch.split(flat, [p.numel() for p in trained]), strict=True):
            parameter.grad = gradient.view_as(parameter).clone()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _enter(rank: int, size: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    try:
        function(Group(rank=rank, size=size), *arguments)
    finally:
        distributed.destroy_process_group()


def launch(size: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(group, *arguments)` in `size` new processes and wait; an error in one ends all and is raised."""
    spawn(_enter, args=(size, _free_port(), function, arguments), nprocs=size)  # type: ignore[no-untyped-call]
