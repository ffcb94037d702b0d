"""The entry point: one config -> one result.

    python -m experiments.run backbone=roberta_base task=rte method=lora_drop seed=0
    python -m experiments.run -m method=lora,lora_drop seed=0,1,2
    python -m experiments.run backbone=roberta_base task=rte method=vera --explain

`--explain` runs nothing; it prints every value with the file that set it.

A finished run is skipped; an interrupted or failed one is tried again, from its last checkpoint.
The same command in several processes shares the runs of a sweep out among them.
"""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.cli import guarded
from experiments.common import console
from experiments.config import explain
from experiments.config.errors import FULL_ERROR, TRACEBACKS
from experiments.config.schema import CONF, UserError
from experiments.config.sweep import check_names
from experiments.results import printing
from experiments.runner.execution import run


@hydra.main(config_path=CONF, config_name="run", version_base="1.3")
def carry_out(config: DictConfig) -> None:
    """Carry out one run, of which a sweep has several."""
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        outcome = run(config, wait=not sweeping)
    except UserError as error:
        if not sweeping:
            if TRACEBACKS:
                raise
            sys.exit(str(error))  # raised, Hydra would add all overrides
        console.error(str(error))  # the other runs go on; the sweep's end names what is missing
        return
    if outcome.result is None:
        console.info(f"{outcome.id} is left to the process that carries it out")
    elif sweeping:
        printing.run_line(outcome.result, again=outcome.again)
    else:
        printing.summary(outcome.result, outcome.outputs, again=outcome.again)


def main() -> int:
    if explain.OPTION in sys.argv[1:]:
        explain.explain_command(sys.argv[1:])
        return 0
    check_names(sys.argv[1:])
    os.environ[FULL_ERROR] = "1"  # Hydra hands its errors over, to be said in one line
    carry_out()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
