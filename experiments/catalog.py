"""The list of experiments in experiments/README.md, from the heads of conf/experiment/*.yaml and from our results.

python -m experiments.catalog          write it, and the numbers of runs and GPU hours in the heads
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from experiments import results
from experiments.cli import guarded
from experiments.config.catalog import EXPERIMENTS, Item, item, names
from experiments.config.sweep import run_configs
from experiments.reporting.comparison import AVERAGE, PAPER, compare, published

README = Path(__file__).with_name("README.md")
EVIDENCE = Path(__file__).with_name("evidence")
BEGIN, END = "<!-- experiments.catalog writes from here -->\n", "<!-- to here -->\n"
COSTS = yaml.safe_load((PAPER / "costs.yaml").read_text())


def hours(config: dict[str, Any]) -> float | None:
    """GPU hours of a run, estimated as costs.yaml says; None for a model or task that is not there."""
    size, task = COSTS["parameters"].get(config["backbone"]["name"]), COSTS["tasks"].get(config["task"]["name"])
    if size is None or task is None:
        return None
    method, epochs = config["method"], config["recipe"]["epochs"]
    passes = (6 if method["name"] == "full" else 4) * task["train"] + 2 * task["validation"]
    stage1 = 4 * task["train"] * method.get("sample_ratio", 0) * (method.get("sample_epochs") or 0)
    return float(size) * task["tokens"] * (passes * epochs + stage1) / float(COSTS["rate"]) / 3600


def runs(item: Item) -> str:
    """The text of its line Runs."""
    configs = run_configs([f"experiment={item.name}"])
    each = [hours(config) for config in configs]
    if None in each:  # what the head says of it by hand
        return ", ".join([str(len(configs)), *item.fields["Runs"].split(", ")[1:]])
    total = sum(each)
    return f"{len(configs)}, about {total:.0f} GPU hours" if total >= 1 else f"{len(configs)}, less than a GPU hour"


def ours(item: Item) -> str:
    """What our result files of its mini form say, in a few words; "" where there are none."""
    if not item.mini or item.name not in published():
        return ""
    frame = results.load([f"experiment={item.name}", *item.mini], EVIDENCE)
    if (frame.status != results.FINISHED).any():
        return ""
    table = compare(item.name, frame)
    column = AVERAGE if AVERAGE in table.columns else table.columns[0]
    cells = table.cells[(table.cells.column == column) & (table.cells.n > 0)]
    scores = ", ".join(f"{cell.row} {cell.ours:.1f}" for cell in cells.itertuples())
    what = f"{column} of {', '.join(dict.fromkeys(frame.task))}" if column == AVERAGE else column
    return f"{frame.backbone.iloc[0]}, {what}: {scores}"


def table() -> str:
    """One row for each experiment, in Markdown."""
    rows = []
    for each in map(item, names()):
        counted, _, cost = runs(each).partition(", ")
        what = (each.name, each.title, f"`{each.fields['Command']}`", counted, cost or "-")
        rows.append((*what, each.fields.get("Expected", "-"), ours(each) or "-"))
    head = ("experiment", "what", "command", "runs", "cost", "expected", "ours, on built-in models")
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def main() -> int:
    for each in map(item, names()):
        path = EXPERIMENTS / f"{each.name}.yaml"
        path.write_text(re.sub(r"^# Runs: .*$", f"# Runs: {runs(each)}", path.read_text(), count=1, flags=re.M))
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
