"""The figure of an experiment, from its result files.

    python -m experiments.figure figure9                 save outputs/figures/figure9.png, and its data as figure9.csv
    python -m experiments.figure demo --format pdf

figures.yaml says what is drawn of which experiment. Any other one: a row of panels for each backbone and task, one panel
for each module type, y_i = g_i / sum_j g_j of every layer, mean over seeds with its standard deviation. Figures of trained
models (distributions of outputs, removed layers) measure these once, and keep what they found beside the runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments import results
from experiments.cli import Options, guarded, parse
from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config.schema import UserError
from experiments.reporting import figure_data

FORMATS = ("png", "pdf", "svg")
SPECS = Path(__file__).with_name("figures.yaml")
IMPORTANCES = "importances"


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, FORMATS, "png")
    frame = results.load(options.overrides)
    missing = int((frame.status != results.FINISHED).sum())
    kind, given, data = _data(options, frame)
    if data.empty:
        console.error(f"{options.experiment}: no finished run has what the figure shows; start with: {options.command}")
        return 1
    from experiments.reporting import plots  # matplotlib: half a second

    figure = getattr(plots, kind)(data, **given)
    path = Path(options.outputs) / "figures" / f"{options.experiment}.{options.format}"
    with atomic_write(path.with_suffix(".csv")) as file:
        data.to_csv(file, index=False)
    with atomic_write(path) as file:
        figure.savefig(file, format=options.format, dpi=160, bbox_inches="tight")
    if missing:
        console.error(f"{missing} of {len(frame)} runs are missing and not in the figure; to make them: {options.command}")
    console.info(f"saved as {path}, its data as {path.with_suffix('.csv')}")
    return 0


def _data(options: Options, frame: pd.DataFrame) -> tuple[str, dict[str, Any], pd.DataFrame]:
    """The kind of figure, its arguments and its numbers."""
    given = yaml.safe_load(SPECS.read_text()).get(options.experiment)
    if given is None:
        return IMPORTANCES, {}, figure_data.importances(frame)
    kind = given.pop("kind")
    try:
        return kind, given, getattr(figure_data, kind)(frame, options.outputs, **given)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"{options.experiment}: {error}") from error


if __name__ == "__main__":
    sys.exit(guarded(main))
