"""Write the list of experiments in experiments/README.md.

    python -m experiments.catalog

It is made from catalog.yaml, the configs (number of runs, GPU hours) and our results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from experiments import results
from experiments.cli import guarded, parser_of
from experiments.config.catalog import Experiment, catalog
from experiments.config.schema import UserError
from experiments.config.sweep import run_configs
from experiments.reporting.comparison import compare
from experiments.reporting.published import PAPER, published
from experiments.reporting.statistics import AVERAGE

README = Path(__file__).with_name("README.md")
EVIDENCE = Path(__file__).with_name("evidence")
BEGIN, END = "<!-- experiments.catalog writes from here -->\n", "<!-- to here -->\n"
COSTS = yaml.safe_load((PAPER / "costs.yaml").read_text(encoding="utf-8"))


def hours(config: dict[str, Any]) -> float | None:
    """The GPU hours of a run by costs.yaml; None if that lacks its model or task."""
    size = COSTS["parameters"].get(config["backbone"]["name"])
    task = COSTS["tasks"].get(config["task"]["name"])
    if size is None or task is None:
        return None
    method, epochs = config["method"], config["recipe"]["epochs"]
    passes = (6 if method["name"] == "full" else 4) * task["train"] + 2 * task["validation"]
    stage1 = 4 * task["train"] * method.get("sample_ratio", 0) * (method.get("sample_epochs") or 0)
    return float(size) * task["tokens"] * (passes * epochs + stage1) / float(COSTS["rate"]) / 3600


def cost(entry: Experiment, configs: list[dict[str, Any]]) -> str:
    """The cost of an experiment: the one in catalog.yaml, or the estimated GPU hours.

    Args:
        entry: The experiment.
        configs: Its runs.

    Raises:
        UserError: If neither is known.
    """
    if entry.cost is not None:
        return entry.cost
    each = [hours(config) for config in configs]
    known = [one for one in each if one is not None]
    if len(known) < len(each):
        raise UserError(
            f"catalog.yaml: {entry.name}.cost is missing: "
            "paper/costs.yaml lacks a model or task of its runs"
        )
    total = sum(known)
    return f"about {total:.0f} GPU hours" if total >= 1 else "less than a GPU hour"


def ours(entry: Experiment) -> str:
    """A short summary of our results for the mini form; "" if there are none."""
    if not entry.mini or entry.name not in published():
        return ""
    frame = results.load(entry.overrides(mini=True), EVIDENCE)
    if (frame.status != results.FINISHED).any():
        return ""
    table = compare(entry.name, frame)
    column = AVERAGE if AVERAGE in table.columns else table.columns[0]
    cells = table.cells[(table.cells.column == column) & (table.cells.n > 0)]
    scores = ", ".join(f"{cell.row} {cell.ours:.1f}" for cell in cells.itertuples())
    what = f"{column} of {', '.join(dict.fromkeys(frame.task))}" if column == AVERAGE else column
    return f"{frame.backbone.iloc[0]}, {what}: {scores}"


def table() -> str:
    """The list of experiments as a Markdown table."""
    head = ("experiment", "what", "runs", "cost", "expected", "ours, on built-in models")
    lines = [head, ("---",) * len(head)]
    for entry in catalog().values():
        configs = run_configs(entry.overrides())
        what = (entry.name, entry.title, str(len(configs)), cost(entry, configs), entry.expected)
        lines.append((*what, ours(entry) or "-"))
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


def main(arguments: list[str] | None = None) -> int:
    parser_of(__doc__).parse_args(arguments)
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    README.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
