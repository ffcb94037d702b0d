"""One flipped bit in any file that is read back: the content is as it was, or the file is refused
or made again.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from helpers.faults import LONG, report
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments import results
from experiments.config import sweep, sweep_cache
from experiments.config.schema import CONF, UserError
from experiments.results import fingerprints, rekeying
from experiments.runner import trainer, training
from experiments.runner.execution import run
from experiments.runner.probe import _stored
from experiments.runner.restore import WEIGHTS
from loradrop.checksums import CHECKSUM, matches, read_json
from loradrop.io.files import read_tensors

pytestmark = pytest.mark.slow

FLIPS = 400 if LONG else 25
IDENTITY = "of data and weights"  # of the checkpoint
SMALL = ("task.train_size=64", "task.validation_size=32", "recipe.epochs=1", "recipe.batch_size=16")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that keeps its last checkpoint: its config, and its result."""
    outputs = tmp_path_factory.mktemp("outputs")
    quick = ("trainer.num_threads=1", "trainer.progress_bar=false", "trainer.checkpoint_minutes=0")
    none = ("paths.models=null", "paths.data=null")
    with initialize_config_dir(CONF, version_base="1.3"):
        paths = f"paths.outputs={outputs}"
        config = compose("run", ["method=lora_drop", *SMALL, *quick, *none, paths])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "state_identity", lambda components: IDENTITY)
        patched.setattr(Path, "unlink", lambda path, **_: None)  # the checkpoint stays
        outcome = run(config)
    return config, outcome.result


def tensors(path):
    return {name: tensor.tolist() for name, tensor in read_tensors(path)[0].items()}


def stage1(path):
    found = _stored(path.parent)
    return found and (found.importance, {n: t.tolist() for n, t in found.trained.items()})


def checkpoint(path):
    found, state = trainer.usable_checkpoint(path, IDENTITY)
    if found is None:
        return None
    content = torch.load(found, weights_only=True)
    return state, repr(content["run"]), repr(content["state_dict"])


def result(path):
    return results.read(path.parents[2], path.parent.name)


def plain_config(path):
    return rekeying._read_config(path)


def token_ids(path):
    return path.read_bytes() if matches(path) else None


def rows(path):
    return read_json(path)["rows"]


# kind of file -> where it lies below the outputs, and who reads it
KINDS = {
    "checkpoint": ("runs/*/checkpoint.ckpt", checkpoint),
    "result": ("runs/*/result.json", result),
    "config of a run": ("runs/*/config.yaml", plain_config),
    "adapter": (f"runs/*/{WEIGHTS}", tensors),
    "importance of stage 1": ("cache/stage1/*/importance.json", stage1),
    "tensors of stage 1": ("cache/stage1/*/trained.safetensors", stage1),
    "token ids": ("cache/tokens/*/train.arrow", token_ids),
    "fingerprint of rows": ("cache/fingerprints/*", rows),
}
REFUSALS = (ValueError, KeyError, TypeError, AttributeError, UserError, yaml.YAMLError)


def outcome_of(read, path, before) -> str:
    """`refused`, or `same`; a checksum whose own name was hit no longer counts as one."""
    try:
        found = read(path)
    except REFUSALS:
        return "refused"
    if found is None:
        return "refused"
    if isinstance(found, results.Result):
        extra = set(found.model_extra or ())
        assert found.model_dump(exclude=extra) == before.model_dump(exclude=extra)
    elif isinstance(found, dict) and len(found) > len(before):
        assert before.items() <= found.items()
    else:
        assert found == before
    return "same"


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit(finished, kind):
    config, _ = finished
    pattern, read = KINDS[kind]
    path = sorted(Path(config.paths.outputs).glob(pattern))[0]
    whole, before = path.read_bytes(), read(path)
    assert before is not None
    draw, counts = random.Random(kind), Counter()
    for _ in range(FLIPS):
        bit = draw.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        counts[outcome_of(read, path, before)] += 1
    path.write_bytes(whole)
    report(f"flipped bit, {kind}", counts)
    assert read(path) == before


def test_a_flipped_bit_in_a_planned_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_cache, "SWEEPS", tmp_path)
    overrides = ["method=lora,lora_drop", "seed=0,1"]
    before = sweep.run_configs(overrides)
    (path,) = tmp_path.glob("*.json")
    whole, draw, counts = path.read_bytes(), random.Random(0), Counter()
    for _ in range(FLIPS):
        bit = draw.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        found = sweep_cache.load_sweep(overrides)
        assert found is None or found == before
        counts["refused" if found is None else "same"] += 1
    report("flipped bit, planned sweep", counts)


def test_a_damaged_fingerprint_is_made_again(finished):
    config, result = finished
    plain = OmegaConf.to_container(config, resolve=True)
    (path,) = Path(config.paths.outputs).glob("cache/fingerprints/*")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"rows": "', b'"rows": "0'))
    assert fingerprints.difference(plain, result, plain["paths"]) is None
    assert path.read_bytes() == whole and CHECKSUM.encode() in whole
