"""The entry point: one config -> one result.

    python -m experiments.run backbone=roberta_base task=rte method=lora_drop seed=0
    python -m experiments.run -m method=lora,lora_drop seed=0,1,2
    python -m experiments.run backbone=roberta_base task=rte method=vera --explain

`--explain` runs nothing; it prints every value with the file that set it.

A finished run is skipped; an interrupted or failed one is tried again, from its last checkpoint. The same command in
several processes shares the runs of a sweep out among them.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.common import console
from experiments.config import explain
from experiments.config.identity import run_id
from experiments.config.precision import resolve_precision
from experiments.config.schema import CONF, UserError
from experiments.config.sweep import check_names
from experiments.results import printing
from experiments.runner.execution import finished, run


@hydra.main(config_path=CONF, config_name="run", version_base="1.3")
def main(config: DictConfig) -> None:
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        precision = resolve_precision(config)
        id = run_id(config)
        known = finished(config, id)
        if precision is not None and known is None:
            console.info(precision)
        result = known or run(config, id, wait=not sweeping)
        if result is None:
            console.info(f"{id} is left to the process that carries it out")
        elif sweeping:
            printing.run_line(result, again=known is not None)
        else:
            printing.summary(result, config.paths.outputs, again=known is not None)
    except UserError as error:
        if not sweeping:
            raise
        console.error(str(error))  # the other runs of the sweep go on; its end names what is missing
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into the latter
        console.error(f"{id} was interrupted; the same command goes on with it")
        raise


if __name__ == "__main__":
    try:
        if explain.OPTION in sys.argv[1:]:
            sys.exit(explain.explain_command(sys.argv[1:]))
        check_names(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
    main()
