"""Result files: where they lie, and how they are read and written. Free of torch.

outputs/runs/<id>/ holds config.yaml, importance.json, adapter.safetensors and result.json. result.json is written once,
atomically, and alone marks a run as finished; result.schema.json says what stands in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.common.files import atomic_write
from experiments.config.schema import UserError

FINISHED, RUNNING, FAILED, DAMAGED, MISSING = "finished", "running", "failed", "damaged", "missing"
SCHEMA = Path(__file__).with_name("result.schema.json")
PREDICTIONS = "predictions.jsonl"  # beside a result: what the best epoch generated, one line a text


def run_folder(outputs: str | Path, id: str) -> Path:
    return Path(outputs) / "runs" / id


def read(outputs: str | Path, id: str) -> dict[str, Any] | None:
    """The result of a run, None where there is none. UserError: a file that is not one."""
    path = run_folder(outputs, id) / "result.json"
    try:
        result = json.loads(path.read_text())
        needed = ("id", "config", *(("metrics", "parameters", "seconds") if result["status"] == FINISHED else ("error",)))
        missing = [key for key in needed if key not in result]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        return result
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:  # no JSON, or of something else
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); delete it and run again") from error


def write(outputs: str | Path, result: dict[str, Any]) -> None:
    """Check a result against the schema and put it in its place, whole or not at all."""
    import jsonschema  # of no use to what only reads

    jsonschema.validate(result, json.loads(SCHEMA.read_text()))
    with atomic_write(run_folder(outputs, result["id"]) / "result.json") as path:
        path.write_text(json.dumps(result, indent=1, allow_nan=False))
