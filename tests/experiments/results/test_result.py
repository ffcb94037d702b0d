"""What a valid result is, and what a result file says of it."""

from __future__ import annotations

import copy
import json

import pytest
from helpers import result_files

from experiments.config.sweep import run_configs
from experiments.results.result import Failure, Result, from_plain, parse, to_plain

CONFIG = run_configs(["experiment=demo", "method=lora_drop", "seed=0"])[0]


@pytest.fixture
def plain():
    return to_plain(result_files.result(CONFIG))


def changed(plain, key, value=None, drop=False):
    plain = copy.deepcopy(plain)
    *path, last = key.split(".")
    node = plain
    for part in path:
        node = node[part]
    if drop:
        del node[last]
    else:
        node[last] = value
    return plain


def test_a_result_is_what_its_file_says_and_the_other_way_round(plain):
    text = json.dumps(plain)
    result = parse(text)
    assert isinstance(result, Result) and json.dumps(to_plain(result)) == text
    assert (result.backbone, result.task, result.method) == (
        "tiny_roberta",
        "mini_sentiment",
        "lora_drop",
    )
    assert result.metrics.primary_at("last") == plain["metrics"]["last"]["accuracy"]
    assert result.metrics.best.scores == {"accuracy": plain["metrics"]["best"]["accuracy"]}
    assert (
        result.importance.normalized["query"][11]
        == plain["importance"]["normalized"]["query"]["11"]
    )
    assert result.total_seconds == 60


def test_fields_of_later_versions_are_kept(plain):
    later = changed(changed(plain, "place", {"city": 1}), "plan.reason", "x")
    assert to_plain(from_plain(later)) == later


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("metrics.best.accuracy", "high", "metrics.best.accuracy"),
        ("metrics.best.accuracy", float("nan"), "metrics.best.accuracy"),
        ("metrics.last.epoch", 0, "metrics.last.epoch"),
        ("metrics.primary", "bleu", "lacks bleu"),
        ("parameters.adapter", -1, "parameters.adapter"),
        ("parameters.adapter", 1.5, "parameters.adapter"),
        ("importance.values.query", [1.0], "importance.values.query"),
        ("importance.values.query", {"first": 1.0}, "importance.values.query"),
        ("plan.kept", {"query": ["0"]}, "plan.kept.query.0"),
        ("seconds", None, "seconds"),
        ("notes", "none", "notes"),
        ("status", "done", "status"),
        ("config.backbone.name", "../../x", "config.backbone.name must be a word"),
        ("config.task", None, "config.task must be a group with a name"),
        ("config", {}, "config.backbone is missing"),
        ("schema", 99, "up to 2, not 99"),
        ("schema", None, "up to 2, not None"),
    ],
)
def test_what_is_not_valid_is_named(plain, key, value, named):
    with pytest.raises(ValueError, match=named):
        from_plain(changed(plain, key, value))


@pytest.mark.parametrize(
    "key", ["id", "config", "metrics", "parameters", "plan", "data_fingerprint", "git_commit"]
)
def test_nothing_may_be_missing(plain, key):
    with pytest.raises(ValueError, match=f"{key}: Field required"):
        from_plain(changed(plain, key, drop=True))


def test_a_measurement_alone_has_no_metrics(plain):
    assert from_plain(changed(plain, "metrics", None)).metrics is None


def test_a_failed_run_says_why():
    failure = Failure(**result_files.surroundings(CONFIG), error="Traceback")
    again = parse(json.dumps(to_plain(failure)))
    assert again == failure and again.status == "failed"
    with pytest.raises(ValueError, match="error"):
        from_plain({key: value for key, value in to_plain(failure).items() if key != "error"})


@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"finished"', "{}"])
def test_other_json_is_no_result(text):
    with pytest.raises(ValueError, match=r"."):
        parse(text)
