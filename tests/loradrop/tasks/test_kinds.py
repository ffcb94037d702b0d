"""Question answering, code, articles, and labels asked as text: their files, prompts and scores."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.config.identity import identity, run_id
from experiments.config.schema import CONF
from loradrop.tasks.base import Splits
from loradrop.tasks.text import evaluation_rows, training_rows


def make(name, **changes):
    return instantiate(OmegaConf.merge(OmegaConf.load(ROOT / f"conf/task/{name}.yaml"), changes))


def composed(name):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("run", [f"task={name}", "backbone=tiny_llama"])


def write(folder, files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder.parent


def squad(*answers):
    question = {"id": "1", "question": "Who?", "answers": [{"text": text} for text in answers]}
    return {
        "version": "1.1",
        "data": [{"paragraphs": [{"context": "A met B.", "qas": [question]}]}],
    }


def test_squad_has_one_answer_to_learn_and_several_to_compare_with(tmp_path):
    files = {"train-v1.1.json": squad("A"), "dev-v1.1.json": squad("A", "B", "A")}
    folder = write(tmp_path / "SQuAD", {name: json.dumps(text) for name, text in files.items()})
    task = make("squad")
    splits = task.load(folder)
    assert splits.train[:] == {"source": ["Who?\n\nA met B."], "target": ["A"]}
    assert splits.evaluation["dev"]["references"][:] == [["A", "B", "A"]]
    assert task.score_texts(["b!"], [["A", "B"]]) == {"exact_match": 1.0, "f1": 1.0}
    task.check_metric()


@pytest.mark.parametrize("text", ["[", "[]", '{"data": [{"paragraphs": 3}]}', '{"data": [{}]}'])
def test_what_is_no_squad_is_an_error_that_names_the_file(tmp_path, text):
    files = {"train-v1.1.json": text, "dev-v1.1.json": text}
    with pytest.raises(ValueError, match=r"train-v1\.1\.json"):
        make("squad").load(write(tmp_path / "SQuAD", files))


def problem(number, code="def f():\r\n  return 1"):
    return {"task_id": number, "text": f"Write {number}.", "code": code, "test_list": ["assert 1"]}


def test_mbpp_s_splits_stand_in_one_file(tmp_path):
    lines = "\n".join(json.dumps(problem(number)) for number in (10, 11, 510, 511, 601, 974))
    task = make("mbpp")
    splits = task.load(write(tmp_path / "MBPP", {"mbpp.jsonl": lines}))
    assert splits.train["source"][:] == ["Write 601.\nassert 1", "Write 974.\nassert 1"]
    assert splits.evaluation["test"][:] == {
        "source": ["Write 11.\nassert 1", "Write 510.\nassert 1"],
        "references": [["def f():\n  return 1"]] * 2,
    }
    task.check_metric()
    broken = json.dumps(problem(601) | {"test_list": "assert 1"})
    with pytest.raises(ValueError, match=r"mbpp\.jsonl, entry 1: it needs task_id and test_list"):
        task.load(write(tmp_path / "mbpp", {"mbpp.jsonl": broken}))


def test_articles_come_from_local_files_alone(tmp_path):
    task = make("xsum")
    with pytest.raises(FileNotFoundError, match="no public address of single files"):
        task.load(None)
    line = json.dumps({"document": "Long.", "summary": "Short.", "id": "1"})
    files = dict.fromkeys(("train.jsonl", "validation.jsonl", "test.jsonl"), line)
    splits = task.load(write(tmp_path / "XSum", files))
    assert splits.train[:] == {"source": ["Long."], "target": ["Short."]}
    assert splits.evaluation["test"][:] == {"source": ["Long."], "references": [["Short."]]}
    task.check_metric()


@pytest.mark.parametrize("name", ["xsum", "dialogsum"])
def test_references_that_no_metric_can_score_are_an_error_before_training(name):
    task = make(name)
    for text, refused in (("caf\u00e9", False), ("\u4f60\u597d", True)):
        rows = evaluation_rows([("source", ["a text", text])], name)
        splits = Splits(training_rows([("source", text)], name), {"test": rows})
        with pytest.raises(ValueError, match="reference of row 1") if refused else nullcontext():
            task.check_references(splits)


def test_labels_are_asked_in_words():
    task = instantiate(composed("mini_sentiment_text").task)
    splits, labelled = task.load(None), task.labelled.load(None)
    names = task.labelled.labels
    assert splits.train[0] == {
        "source": f"sentence: {labelled.train[0]['sentence']}",
        "target": names[labelled.train[0]["label"]],
    }
    rows = labelled.evaluation["validation"]
    assert splits.evaluation["validation"]["references"][:] == [[names[i]] for i in rows["label"]]
    assert len(splits.train) == len(labelled.train)
    assert task.score_texts(["Positive.", "negative"], [["positive"]] * 2)["exact_match"] == 0.5
    scores = {**OmegaConf.to_container(composed("rte_text").task), "labelled": None}
    scores["labelled"] = OmegaConf.load(ROOT / "conf/task/stsb.yaml")
    with pytest.raises(InstantiationException, match="stsb has scores instead of labels"):
        instantiate(OmegaConf.create(scores))


@pytest.mark.parametrize("name", ["rte_text", "mrpc_text", "cola_text", "sst2_text"])
def test_a_pair_is_two_lines_and_the_names_are_in_the_prompt(name):
    task = instantiate(composed(name).task)
    columns = task.labelled.columns
    rows = [{**dict.fromkeys(columns, "x"), "label": 1}]
    ((source, names),) = task._entries(rows)
    assert source == "\n".join(f"{column}: x" for column in columns)
    assert names == [task.labelled.labels[1]]
    assert all(label in task.template for label in task.labelled.labels)


def test_where_the_rows_of_a_text_come_from_is_no_part_of_its_identity():
    config = composed("rte_text")
    id = run_id(config)
    config.task.labelled.official = "elsewhere"
    assert run_id(config) == id
    assert identity(config)["task"]["labelled"]["metric"] == "Accuracy"
    config.task.labelled.columns = ["sentence2", "sentence1"]
    assert run_id(config) != id


def test_rows_that_the_task_with_labels_holds_back_are_held_back_as_text():
    config = OmegaConf.to_container(composed("mini_sentiment_text").task)
    task = instantiate(OmegaConf.merge(config, {"labelled": {"held_back": 0.25}}))
    splits = task.splits(None)
    assert list(splits.evaluation) == ["held_back"]
    assert (len(splits.train), len(splits.evaluation["held_back"])) == (1500, 500)
