"""Score the texts that a run has generated again, without its model.

python -m experiments.score <run id> [--outputs outputs]      from outputs/runs/<run id>/predictions.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys

from omegaconf import OmegaConf

from experiments import results, show
from experiments.command import guarded
from experiments.config import build


def scores(id: str, outputs: str = "outputs") -> tuple[dict[str, float], dict[str, float]]:
    """(scores of the saved texts, scores in the result file), both of the run's best epoch.

    FileNotFoundError: no such run, or one that generated nothing.
    """
    result, path = results.read(outputs, id), results.run_folder(outputs, id) / results.PREDICTIONS
    if result is None or not path.exists():
        raise FileNotFoundError(f"there is no {path}; runs that generate text leave it behind")
    by_split: dict[str, tuple[list[str], list[list[str]]]] = {}
    with path.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            predictions, references = by_split.setdefault(line["split"], ([], []))
            predictions.append(line["prediction"])
            references.append(line["references"])
    task = build("task", OmegaConf.create(result["config"]["task"]))
    return task.score(by_split), result["metrics"]["best"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("id", help="of the run: the name of its folder")
    parser.add_argument("--outputs", default="outputs")
    given = parser.parse_args(arguments)
    again, recorded = scores(given.id, given.outputs)
    for key, value in again.items():
        same = "as recorded" if value == recorded.get(key) else f"recorded: {100 * recorded.get(key, float('nan')):.4f}"
        show.console.print(f"{key} {100 * value:.4f} ({same})")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
