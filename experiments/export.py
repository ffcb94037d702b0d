"""Export the adapter and head of a finished run's best epoch for other programs.

    python -m experiments.export <run id> --to peft <folder>     for PEFT and loradrop
    python -m experiments.export <run id> --to merged <folder>   a plain model with its tokenizer
    python -m experiments.export <run id> --to compact <folder>  each shared LoRA once, for loradrop

PeftModel.from_pretrained loads the first form, the model class's own from_pretrained the second,
and loradrop.from_pretrained the first and the third.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from experiments.cli import add_run, guarded, parser_of, run_of
from experiments.common import console
from experiments.config.schema import UserError

FORMS = PEFT, MERGED, COMPACT = ("peft", "merged", "compact")


def export(
    id: str,
    form: str,
    folder: str | Path,
    outputs: str | Path = "outputs",
    models: str | Path | None = None,
) -> str:
    """Write a run's adapter into a folder.

    Args:
        id: The run.
        form: One of FORMS.
        folder: An empty or new folder.
        outputs: The folder of results.
        models: The folder of local models, as in `restore`.

    Returns:
        What was written, in one line.

    Raises:
        FileNotFoundError: If there is no such finished run with weights.
        UserError: If the folder is not empty, the pretrained weights are not the run's, or the
            run's method has no such form (prefixes).
    """
    from experiments.runner.restore import restore  # imported late: it imports torch
    from loradrop.io.merging import merge
    from loradrop.io.pretrained import save_pretrained
    from loradrop.lora.inject import lora_modules

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} holds something already; name a folder that is empty or not there yet"
        )
    try:
        restored: Any = restore(id, outputs, models)
        model, tokenizer, result = restored
        if not lora_modules(model):
            raise ValueError(f"the run {id} has no LoRA to export: its method is {result.method}")
        # not the path of a local copy
        model.config.name_or_path = result.config["backbone"]["hub_id"]
        if form == MERGED:
            ordinary: Any = merge(model)
            ordinary.save_pretrained(folder)
            text = f"{folder}: an ordinary {type(model).__name__}"
        else:
            text = str(save_pretrained(model, folder, compact=form == COMPACT))
    except ValueError as error:
        raise UserError(str(error)) from error
    tokenizer.save_pretrained(folder)
    return text


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    add_run(parser)
    parser.add_argument("folder", type=Path, help="the folder to write to")
    parser.add_argument("--to", choices=FORMS, required=True)
    given = parser.parse_args(arguments)
    id, outputs = run_of(given)
    console.terminal.print(
        export(id, given.to, given.folder, outputs), soft_wrap=True, highlight=False
    )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
