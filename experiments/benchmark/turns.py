"""Take turns, compare by ratios, and keep every timing.

Times of a shared machine differ from minute to minute, so no time stands alone: contestants take
turns within one run, and the median of the ratios within each round is what is reported.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from experiments.common.files import atomic_write
from experiments.common.memory import peak_memory

Measured = TypeVar("Measured")


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Return the median over rounds of the ratio of two contestants."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def take_turns(
    contestants: Mapping[str, Callable[[], Measured]], rounds: int
) -> dict[str, list[Measured]]:
    """Run every contestant once per round and return what each reported.

    Every second round runs in the opposite order, so that a machine that slows down or speeds up
    favours nobody.
    """
    timings: dict[str, list[Measured]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants)
        for name in names if number % 2 == 0 else reversed(names):
            timings[name].append(contestants[name]())
    return timings


@dataclass
class Worker:
    """A process of its own for a contestant, so that its peak memory is true for it alone.

    Args:
        prepare: Called in the process with `arguments`. It returns what a turn calls.
        arguments: For `prepare`. All of this is pickled.
    """

    prepare: Callable[..., Callable[[], Mapping[str, float]]]
    arguments: tuple[Any, ...] = ()

    def __enter__(self) -> Worker:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.prepare, self.arguments))
        self.process.start()
        theirs.close()  # so that the end of the process is seen here
        return self

    def turn(self) -> dict[str, float]:
        """Let the process take a turn and return its measurements."""
        return self._ask("turn")

    def peak_bytes(self) -> int:
        """Return the process's peak memory so far."""
        return int(self._ask("peak")["bytes"])

    def __exit__(self, *error: object) -> None:
        self.connection.close()
        self.process.join()

    def _ask(self, request: str) -> dict[str, float]:
        try:
            self.connection.send(request)
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise RuntimeError(
                f"a contestant's process ended with status {self.process.exitcode}"
            ) from None


def _serve(
    connection: Any,
    prepare: Callable[..., Callable[[], Mapping[str, float]]],
    arguments: tuple[Any, ...],
) -> None:
    turn = prepare(*arguments)
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        connection.send(dict(turn()) if request == "turn" else {"bytes": peak_memory()})
        gc.collect()  # as between runs: what refers to itself would add to the next turn's memory


def save(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write a benchmark's JSON: command, hardware, versions and every timing.

    Args:
        folder: Where to write `<name>.json`.
        name: The benchmark's name.
        content: What it measured.
    """
    from experiments.runner.environment import environment

    path = folder / f"{name}.json"
    facts = {"command": f"python -m experiments.benchmark {name}", **environment()}
    with atomic_write(path) as file:
        file.write_text(json.dumps({**facts, **content}, indent=1) + "\n", encoding="utf-8")
    return path
