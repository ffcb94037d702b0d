"""Measure the time of a training step for each method, relative to plain LoRA.

python -m experiments.benchmark methods      every method, on the built-in model
python -m experiments.benchmark methods method=lora,prilora backbone=roberta_base --steps 50

The methods take turns, step by step, on the same batches, so that other load on the machine affects
all of them alike. The table shows medians. Models are prepared as in a run; LoRA-drop's stage 1
comes from the cache if a run has left it there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config import sweep
from experiments.config.schema import UserError
from experiments.config.validation import BuiltConfig, check
from experiments.reporting import tables
from experiments.runner.components import RunComponents
from experiments.runner.environment import environment
from experiments.runner.probe import RunProbe
from experiments.runner.trainer import quieten
from loradrop.methods.base import Method

BASELINE = "lora"
WARM_UP = 2  # uncounted steps


class Contestant:
    """A method's model and optimiser.

    Args:
        built: A checked config and its objects.
    """

    def __init__(self, built: BuiltConfig) -> None:
        self.components = RunComponents(built)
        self.method: Method = self.components.method
        self.probe = RunProbe(self.components, Path(built.config.paths.cache) / "stage1")
        self.method.prepare(self.components.model, self.probe)
        self.model = self.components.model.to(self.components.device).train()
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], lr=1e-5
        )
        self.seconds: list[float] = []

    def step(self, batch: dict[str, torch.Tensor], number: int) -> None:
        """Time one training step, done as in loradrop.training.module.SequenceModule."""
        self._wait()
        start = time.perf_counter()
        with self.probe.autocast():
            loss = self.model(
                **{key: value.to(self.components.device) for key, value in batch.items()}
            ).loss
            penalty = self.method.penalty(self.model)
        self.optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        self.optimizer.step()
        self.method.on_step_end(self.model, number)
        self._wait()
        self.seconds.append(time.perf_counter() - start)

    def _wait(self) -> None:
        if self.components.device.type == "cuda":
            torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as for experiments.run")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_intermixed_args(arguments)
    if given.steps < 1:
        parser.error(f"--steps must be at least 1, got {given.steps}")
    named = any(
        o.key_or_group == "method"
        for o in OverridesParser.create().parse_overrides(given.overrides)
    )
    configs = sweep.expand_sweep(given.overrides if named else ["method=glob(*)", *given.overrides])
    configs.sort(key=lambda config: config.method.name != BASELINE)
    quieten()
    contestants = list(built(configs, skip=not named))
    run(contestants, given.steps)
    table = compare(contestants)
    title = f"A training step, median of {given.steps}, batches of {configs[0].recipe.batch_size}"
    console.print_frame(table, title, text=("method",))
    command = " ".join(["python -m experiments.benchmark methods", *(arguments or [])])
    facts = environment()
    machine = ", ".join(
        [
            facts["hardware"]["machine"],
            *facts["hardware"]["gpus"],
            f"torch {facts['versions']['torch']}",
        ]
    )
    path = (
        Path(configs[0].paths.outputs)
        / "tables"
        / f"benchmark-{configs[0].backbone.name}-{configs[0].task.name}.md"
    )
    with atomic_write(path) as file:
        file.write_text(
            f"{title}; {machine}, {configs[0].trainer.precision}. Made by `{command}`.\n\n"
            f"{tables.frame(table, 'markdown')}",
            encoding="utf-8",
        )
    console.terminal.print(f"saved as {path}", soft_wrap=True)
    return 0


def built(configs: list[DictConfig], skip: bool) -> Iterator[Contestant]:
    """Prepare the contestants.

    Args:
        configs: One per method.
        skip: Whether to leave out methods that cannot run, with a message.

    Raises:
        UserError: If a method cannot run, and is the baseline or `skip` is False.
    """
    for config in configs:
        try:
            yield Contestant(check(config))
        except (ValueError, OSError) as error:
            if not skip or config.method.name == BASELINE:
                raise UserError(f"{config.method.name}: {error}") from error
            console.error(f"{config.method.name} is left out: {error}")


def run(contestants: list[Contestant], steps: int) -> None:
    """Let all methods take the same steps in turn."""
    batches: Iterator[Any] = iter(())
    for number in range(1, WARM_UP + steps + 1):
        batch = next(batches, None)
        if batch is None:
            batches = iter(contestants[0].components.data.train_loader())
            batch = next(batches)
        for contestant in contestants:
            contestant.step(batch, number)


def compare(contestants: list[Contestant]) -> pd.DataFrame:
    """Median milliseconds per step, and the median over batches of the ratio to the first."""
    first = contestants[0].seconds[WARM_UP:]
    rows = []
    for contestant in contestants:
        seconds = contestant.seconds[WARM_UP:]
        ratio = statistics.median(own / base for own, base in zip(seconds, first, strict=True))
        name = contestant.method.name
        rows.append(
            {
                "method": name,
                "ms": f"{1000 * statistics.median(seconds):.1f}",
                "ratio": f"{ratio:.2f}",
            }
        )
    frame = pd.DataFrame(rows)
    return frame.rename(columns={"ratio": f"of {contestants[0].method.name}'s"})
