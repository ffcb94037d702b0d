"""A run in several processes, one a device: started here, by torchrun, or by Slurm.

All processes call the same functions. Only the first one claims the run and writes files. Imports
torch only when a run has several processes.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from omegaconf import DictConfig

from experiments.common import console
from experiments.config.schema import UserError

Value = TypeVar("Value")
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def wanted(config: DictConfig) -> int:
    """The number of processes that a config asks for."""
    return config.trainer.devices * config.trainer.num_nodes


def several() -> bool:
    """Whether this process is one of several that carry out a run."""
    torch = sys.modules.get("torch")
    return bool(torch and torch.distributed.is_available() and torch.distributed.is_initialized())


def rank() -> int:
    """The number of this process; 0 is the one that claims and writes."""
    return sys.modules["torch"].distributed.get_rank() if several() else 0


def world_size() -> int:
    """How many processes carry out a run."""
    return sys.modules["torch"].distributed.get_world_size() if several() else 1


def local_rank() -> int:
    """The number of this process, and so of its device, on its machine."""
    return int(os.environ["LOCAL_RANK"])


def from_first(value: Value) -> Value:
    """The value that the first process gives; the other processes' are ignored."""
    if not several():
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


@contextmanager
def in_first(make: Callable[[], AbstractContextManager[Value]]) -> Iterator[Value]:
    """Enter a context in the first process, and yield what it yields in all of them.

    Args:
        make: Makes the context.

    Raises:
        UserError: In all processes, if entering it raises in the first one.
    """
    with ExitStack() as stack:
        value: Any = None
        error: Exception | None = None
        if rank() == 0:
            try:
                value = stack.enter_context(make())
            except Exception as problem:
                error = problem
        value, message = from_first((value, error and str(error)))
        if error is not None:
            raise error
        if message is not None:
            raise UserError(message)
        yield value


def join(config: DictConfig) -> bool:
    """Join the other processes of a run, if torchrun, Slurm or `start` has started them.

    Args:
        config: The run's config.

    Returns:
        Whether this is one of several processes.

    Raises:
        UserError: If there are more or fewer processes than the config asks for.
    """
    if not several() and _started(config):
        import torch

        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend)
    if world_size() not in (1, wanted(config)):
        raise UserError(
            f"{world_size()} processes were started, but trainer.devices x trainer.num_nodes is "
            f"{wanted(config)}"
        )
    if wanted(config) > 1 and not several() and config.trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={config.trainer.num_nodes} needs a process for each device: "
            "hydra/launcher=slurm with hydra.launcher.nodes and hydra.launcher.tasks_per_node, "
            "or torchrun on each node"
        )
    return several()


def _started(config: DictConfig) -> bool:
    """Whether this process was started as one of several; sets torchrun's variables for Slurm."""
    if wanted(config) == 1:
        return False
    if all(name in os.environ for name in TORCHRUN):
        return True
    submitit = sys.modules.get("submitit")  # only there in a job that it has started
    if submitit is None or submitit.JobEnvironment().num_tasks != wanted(config):
        return False
    submitit.helpers.TorchDistributedEnvironment().export()
    os.environ["NODE_RANK"] = str(submitit.JobEnvironment().node)
    return True


def start(work: Callable[..., Any], count: int, *arguments: Any) -> None:
    """Call a function in several processes of this machine, until all have returned.

    Args:
        work: A function of a module.
        count: The number of processes.
        arguments: Its arguments.

    Raises:
        UserError: If one of them raises or dies; the others are then ended.
    """
    from torch import multiprocessing

    logging.getLogger(multiprocessing.spawn.__module__).setLevel(logging.ERROR)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    given = (work, count, port, arguments)
    processes = multiprocessing.spawn(_process, given, nprocs=count, join=False)
    try:
        while not processes.join():
            pass
    except (
        multiprocessing.ProcessRaisedException,
        multiprocessing.ProcessExitedException,
    ) as error:
        kind, _, message = console.first_line(str(error)).partition(": ")
        is_ours = kind.endswith(UserError.__name__)
        raise UserError(message if is_ours else f"{kind}: {message}".rstrip(": ")) from error
    finally:
        for process in processes.processes:  # all, before one notices that another is gone
            process.terminate()
        for process in processes.processes:
            process.join()


def _process(
    rank: int, work: Callable[..., Any], count: int, port: int, arguments: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # also while it waits for another process
    values = (str(rank), str(rank), str(count), "127.0.0.1", str(port))
    os.environ |= dict(zip(TORCHRUN, values, strict=True))
    try:
        work(*arguments)
    finally:
        if several():
            sys.modules["torch"].distributed.destroy_process_group()
