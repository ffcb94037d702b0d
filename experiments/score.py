"""Score what a run predicted once more, without its model.

    python -m experiments.score <run id> [--outputs outputs]
    python -m experiments.score <run id> --export folder  also write generated texts for sacrebleu

Reads outputs/runs/<run id>/predictions.jsonl.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments import results
from experiments.cli import add_run, guarded, parser_of, run_of
from experiments.common import console
from experiments.config.schema import UserError
from experiments.config.validation import instantiate_group
from experiments.results import Result, as_shown
from loradrop.checksums import matches

# split -> texts and the references of each, or class ids (scores) and the true ones
BySplit = dict[str, tuple[list[Any], list[Any]]]


def predictions(id: str, outputs: str) -> tuple[Result, BySplit]:
    """Read what a run predicted at its best epoch.

    Args:
        id: The run.
        outputs: The folder of results.

    Returns:
        The run's result, and {split: (predictions, references)}.

    Raises:
        FileNotFoundError: If there is no such run, it is not finished, or it predicted nothing.
        UserError: If the file is damaged.
    """
    result = results.finished_result(outputs, id)
    path = results.run_folder(outputs, id) / results.PREDICTIONS
    if result is None or not path.exists():
        raise FileNotFoundError(
            f"there is no finished run with {path}; runs that only measure do not write it"
        )
    if matches(path) is False:
        raise UserError(f"{path} does not match its checksum; delete {path.parent} and run again")
    by_split: BySplit = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                predicted, references = by_split.setdefault(row["split"], ([], []))
                predicted.append(row["prediction"])
                references.append(row["label"] if "label" in row else row["references"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}: no split, prediction and references or label ({error})"
                ) from error
    return result, by_split


def scores(id: str, outputs: str = "outputs") -> tuple[dict[str, float], dict[str, float]]:
    """Score the predictions of a run's best epoch.

    Args:
        id: The run.
        outputs: The folder of results.

    Returns:
        The new scores, and those in the result file.

    Raises:
        FileNotFoundError, UserError: As `predictions`.
    """
    result, by_split = predictions(id, outputs)
    task = instantiate_group("task", OmegaConf.create(result.config["task"]))
    recorded = {} if result.metrics is None else result.metrics.best.scores
    return task.score(by_split), recorded


def export(by_split: BySplit, folder: Path) -> str:
    """Write the texts and references of all splits as plain text, one per line.

    A row with fewer references than others gets empty lines, which sacrebleu ignores.

    Args:
        by_split: From `predictions`.
        folder: The folder to write to.

    Returns:
        The sacrebleu command that computes `bleu` from these files.

    Raises:
        UserError: If the predictions are labels.
    """
    if not all(isinstance(text, str) for texts, _ in by_split.values() for text in texts):
        raise UserError("--export: this run predicted labels; only generated texts are exported")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        row
        for texts, references in by_split.values()
        for row in zip(texts, references, strict=True)
    ]
    texts, references = zip(*rows, strict=True)
    kept = [[text for text in some if text.strip()] for some in references]
    files: dict[str, Sequence[str]] = {"predictions.txt": texts}
    for i in range(max(map(len, kept))):
        files[f"references{i}.txt"] = [some[i] if i < len(some) else "" for some in kept]
    for name, lines in files.items():
        (folder / name).write_text(
            "".join(f"{one_line(line)}\n" for line in lines), encoding="utf-8"
        )
    first, *others = (str(folder / name) for name in files)
    return f"sacrebleu {shlex.join(others)} -i {shlex.quote(first)} -m bleu -w 4"


def one_line(text: str) -> str:
    """Remove line breaks as sacrebleu's 13a tokenizer does, joining words hyphenated at one."""
    return " ".join(text.replace("-\n", "").split())


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    add_run(parser)
    parser.add_argument("--export", metavar="FOLDER", type=Path)
    given = parser.parse_args(arguments)
    run = run_of(given)
    again, recorded = scores(*run)
    for key, value in again.items():
        before = recorded.get(key, float("nan"))
        note = "as recorded" if value == before else f"recorded: {as_shown(key, before):.4f}"
        console.terminal.print(f"{key} {as_shown(key, value):.4f} ({note})")
    if given.export:
        print(export(predictions(*run)[1], given.export))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
