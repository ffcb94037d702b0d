"""Score the texts that a run has generated again, without its model.

python -m experiments.score <run id> [--outputs outputs]      from outputs/runs/<run id>/predictions.jsonl
python -m experiments.score <run id> --export folder          also as plain text, with sacrebleu's command for it
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from experiments import results
from experiments.cli import add_run, guarded, run_of
from experiments.common import console
from experiments.config.schema import UserError
from experiments.config.validation import instantiate_group
from experiments.results import Result

BySplit = dict[str, tuple[list[str], list[list[str]]]]  # split -> predictions, and the references of each


def predictions(id: str, outputs: str) -> tuple[Result, BySplit]:
    """A run's result, and {split: (saved texts, references)} of its best epoch.

    FileNotFoundError: no such run, or one that generated nothing or did not finish. UserError: a damaged file.
    """
    result, path = results.finished_result(outputs, id), results.run_folder(outputs, id) / results.PREDICTIONS
    if result is None or not path.exists():
        raise FileNotFoundError(f"there is no finished run with {path}; runs that generate text leave it behind")
    by_split: BySplit = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                texts, references = by_split.setdefault(row["split"], ([], []))
                texts.append(row["prediction"])
                references.append(row["references"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(f"{path}, line {number}: no split, prediction and references ({error})") from error
    return result, by_split


def scores(id: str, outputs: str = "outputs") -> tuple[dict[str, float], dict[str, float]]:
    """(scores of the saved texts, scores in the result file), both of the run's best epoch. Errors: see predictions."""
    result, by_split = predictions(id, outputs)
    task = instantiate_group("task", OmegaConf.create(result.config["task"]))
    recorded = {} if result.metrics is None else result.metrics.best.scores
    return task.score(by_split), recorded


def export(by_split: BySplit, folder: Path) -> str:
    """Write all splits' texts and references, one a line, and return sacrebleu's command that gives `bleu` from them.

    A row with fewer references than others has empty lines, which sacrebleu takes for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for texts, references in by_split.values() for row in zip(texts, references, strict=True)]
    texts, references = zip(*rows, strict=True)
    kept = [[text for text in some if text.strip()] for some in references]
    files: dict[str, Sequence[str]] = {"predictions.txt": texts}
    for i in range(max(map(len, kept))):
        files[f"references{i}.txt"] = [some[i] if i < len(some) else "" for some in kept]
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{one_line(line)}\n" for line in lines), encoding="utf-8")
    first, *others = (str(folder / name) for name in files)
    return f"sacrebleu {shlex.join(others)} -i {shlex.quote(first)} -m bleu -w 4"


def one_line(text: str) -> str:
    """Without line breaks, as sacrebleu's 13a tokenizer reads them: it joins words that are hyphenated at one."""
    return " ".join(text.replace("-\n", "").split())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run(parser)
    parser.add_argument("--export", metavar="FOLDER", type=Path)
    given = parser.parse_args(arguments)
    run = run_of(given)
    again, recorded = scores(*run)
    for key, value in again.items():
        same = "as recorded" if value == recorded.get(key) else f"recorded: {100 * recorded.get(key, float('nan')):.4f}"
        console.terminal.print(f"{key} {100 * value:.4f} ({same})")
    if given.export:
        print(export(predictions(*run)[1], given.export))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
