"""The table of an experiment, from its result files.

python -m experiments.table demo                          print it, and save it as outputs/tables/demo.md
python -m experiments.table demo seed=0 --format csv      a part of it, as CSV
python -m experiments.table parameters                    trainable parameters of the paper's tables, without any run
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from experiments import results, show
from experiments.command import Options, guarded, parse
from experiments.config import UserError
from experiments.files import replacing

FORMATS: dict[str, tuple[str, Callable[[pd.DataFrame], str]]] = {
    "markdown": ("md", lambda frame: results.markdown(frame)),
    "csv": ("csv", lambda frame: frame.to_csv(index=False)),
}
PARAMETERS = "parameters"  # a table without runs


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, FORMATS, "markdown", (PARAMETERS,))
    if options.experiment == PARAMETERS:
        if any(not override.startswith("paths.outputs=") for override in options.overrides[1:]):
            raise UserError(f"{PARAMETERS} is not made of runs: paths.outputs is its only override")
        from experiments import parameters  # torch and transformers

        _save(parameters.shown(), parameters.CAPTION, options)
        return 0
    frame = results.load(options.overrides)
    finished = frame[frame.status == results.FINISHED]
    missing = frame[frame.status != results.FINISHED]
    if finished.empty:
        show.failed(f"{options.experiment}: no finished run; start with: {options.command}")
        return 1
    table = results.over_seeds(finished)
    show.overview(table)
    if len(missing):
        show.failed(f"{len(missing)} of {len(frame)} runs are missing and not in the table; to make them: {options.command}")
    _save(table, _caption(finished, options), options)
    return 0


def _save(table: pd.DataFrame, caption: str, options: Options) -> None:
    suffix, render = FORMATS[options.format]
    head = "" if options.format == "csv" else f"{caption}\n\n"
    path = Path(options.outputs) / "tables" / f"{options.experiment}.{suffix}"
    with replacing(path) as file:
        file.write_text(head + render(table))
    show.console.print(f"saved as {path}", soft_wrap=True)


def _caption(frame: pd.DataFrame, options: Options) -> str:
    rows = sorted({f"{rows} rows of {split}" for r in frame.result for split, rows in r["evaluated_on"].items()})
    return (
        f"Mean ± standard deviation over seeds, in percent, at the best and the last epoch, on {' and '.join(rows)}. "
        "Heads are trained but not counted; kept: layers with an own LoRA. "
        f"Made by `{options.command}` from {len(frame)} result files in {options.outputs}/runs."
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
