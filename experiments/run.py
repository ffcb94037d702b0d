"""Run one config, or a sweep, and record the results.

    python -m experiments.run backbone=roberta_base task=rte method=lora_drop seed=0
    python -m experiments.run -m method=lora,lora_drop seed=0,1,2
    python -m experiments.run backbone=roberta_base task=rte method=vera --explain

`--explain` prints every value with the file that set it, and runs nothing.

Finished runs are skipped. Interrupted and failed runs continue from their last checkpoint.
Several processes can run the same command; they divide the runs of a sweep among themselves.
"""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.cli import guarded
from experiments.common import console, interrupts
from experiments.config import explain
from experiments.config.errors import FULL_ERROR, TRACEBACKS
from experiments.config.schema import CONF, UserError
from experiments.config.sweep import check_names
from experiments.results import printing
from experiments.runner import processes
from experiments.runner.execution import run
from experiments.runner.launching import report


@hydra.main(config_path=CONF, config_name="run", version_base="1.3")
def carry_out(config: DictConfig) -> str | None:
    """Carry out one run. In a sweep, Hydra calls this once per run.

    Returns:
        In a sweep, why the run did not start or failed; None if it did not.
    """
    interrupts.make_errors_final()
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        outcome = run(config, wait=not sweeping)
    except UserError as error:
        if not sweeping or processes.several():  # the others of a group would wait for this one
            if TRACEBACKS:
                raise
            sys.exit(str(error))  # if it were raised, Hydra would print all overrides too
        report(str(error))  # the other runs go on; a summary names those missing
        return str(error)
    if processes.rank() > 0:
        return None
    if outcome.result is None:
        console.info(f"{outcome.id} is left to the process that carries it out")
    elif sweeping:
        printing.run_line(outcome.result, again=outcome.again)
    else:
        printing.summary(outcome.result, outcome.outputs, again=outcome.again)
    return None


def main() -> int:
    if explain.OPTION in sys.argv[1:]:
        explain.explain_command(sys.argv[1:])
        return 0
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)  # what follows is Hydra's list of groups and options
    check_names(sys.argv[1:])
    os.environ[FULL_ERROR] = "1"  # Hydra then raises errors, which `guarded` prints
    carry_out()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
