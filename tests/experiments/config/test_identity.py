"""A run's id stands for what can change its numbers, and for nothing else."""

from __future__ import annotations

import copy

import pytest
from conftest import composed
from omegaconf import OmegaConf

from experiments.config.added_keys import with_added
from experiments.config.identity import digest, identity, run_id, stage1_id

# pinned: a change of one of these needs a new IDENTITY_VERSION, and stored results new ids
PINNED = {
    "tiny_roberta-mini_sentiment-lora_drop-s0-caefc67b": "",
    "tiny_llama-mini_summary-lora-s0-67add779": "backbone=tiny_llama task=mini_summary method=lora",
    "roberta_base-rte-lora_drop-s1-729a98fd": "backbone=roberta_base task=rte seed=1 trainer=gpu",
    "roberta_base-mnli-full-s0-3d99b992": "backbone=roberta_base task=mnli method=full",
    "roberta_large-cola-vera-s0-5d6a6f6b": "backbone=roberta_large task=cola method=vera",
    "llama2_7b-gsm8k-lora_drop-s0-6483f7a6": "backbone=llama2_7b task=gsm8k trainer=gpu",
    "llama2_7b-e2e-lora_drop_upper_layers-s0-99a2e071": (
        "backbone=llama2_7b task=e2e method=lora_drop_upper_layers"
    ),
    "deberta_v3_base-stsb-prilora-s0-f8cd4cf4": (
        "backbone=deberta_v3_base task=stsb method=prilora"
    ),
    "all_minilm_l6-cola-linear_probe-s0-ddb9600a": (
        "backbone=all_minilm_l6 task=cola method=linear_probe trainer.num_threads=1"
    ),
    "bert_base-qnli-prefix_tuning-s0-db7d6e71": (
        "backbone=bert_base task=qnli method=prefix_tuning"
    ),
    # as it was before the key
    "bert_base-qnli-prefix_tuning-s0-40c2c1a9": (
        "backbone=bert_base task=qnli method=prefix_tuning method.dropout=0.0"
    ),
}


@pytest.fixture(scope="module")
def plain():
    """The config of a task with files, an address and a metric."""
    config = composed("backbone=llama2_7b", "task=gsm8k", "method=lora_drop", "seed=3")
    return OmegaConf.to_container(config, resolve=True)


def changed(plain, key, value):
    config = copy.deepcopy(plain)
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node[part]
    node[last] = value
    return config


@pytest.mark.parametrize(("id", "overrides"), PINNED.items())
def test_ids_stay(id, overrides):
    assert run_id(composed(*overrides.split())) == id


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method._target_", "elsewhere.LoRADrop"),
        ("backbone._target_", "elsewhere.models.Backbone"),
        ("task.metric", "elsewhere.FinalAnswer"),
        ("task.official", "gsm"),
        ("task.url", "https://mirror.example/gsm8k"),
        ("task.files.train.name", "other.jsonl"),
        ("paths.outputs", "elsewhere"),
        ("logger", {"_target_": "elsewhere.logger"}),
        ("save_weights", False),
        ("wait", False),
        ("trainer.progress_bar", False),
        ("trainer.num_workers", 3),
        ("trainer.checkpoint_minutes", 1.0),
        ("trainer.unknown", 1),
        ("method.new_key", None),
        ("method.rank", 8.0),
        ("recipe.epochs", 6.0),
        ("recipe.adapter_learning_rate", None),
        ("recipe.long_rows", "truncate"),
        ("recipe.lora_rank", 4),  # the method has the rank
    ],
)
def test_what_changes_no_number_changes_no_id(plain, key, value):
    plain = changed(plain, "recipe.epochs", 6)
    plain = changed(plain, "method.rank", 8)
    plain = changed(plain, "recipe.adapter_learning_rate", plain["recipe"]["learning_rate"])
    assert run_id(changed(plain, key, value)) == run_id(plain)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone.name", "other"),
        ("backbone.revision", "abc"),
        ("task.metric", "elsewhere.Accuracy"),
        ("task.template", "{source}"),
        ("task.files.train.rows", 5),
        ("task.files.train.sha256", "00"),
        ("method.name", "other"),
        ("method.threshold", 0.8),
        ("method.nested", {"_target_": "a.b.Class"}),
        ("recipe.learning_rate", 0.5),
        ("recipe.adapter_learning_rate", 0.5),
        ("recipe.long_rows", "drop"),
        ("decoding.num_beams", 9),
        ("decoding", None),
        ("trainer.accelerator", "other"),
        ("trainer.precision", "bf16-mixed" * 2),
        ("trainer.num_threads", 7),
        ("seed", 4),
    ],
)
def test_what_can_change_a_number_changes_the_id(plain, key, value):
    assert run_id(changed(plain, key, value)) != run_id(plain)


@pytest.mark.parametrize(
    ("key", "default", "other"),
    [("criterion", "output", "gradient"), ("measure_on", "sample", "train")],
)
def test_a_key_that_came_later_counts_only_with_another_value(plain, key, default, other):
    older = copy.deepcopy(plain)
    assert older["method"].pop(key) == default
    assert run_id(older) == run_id(plain) == run_id(changed(plain, f"method.{key}", default))
    assert run_id(changed(plain, f"method.{key}", other)) != run_id(plain)
    assert with_added(older["method"]) == plain["method"]


def test_a_later_switch_is_no_number(plain):
    switch = changed(plain, "method", {"_target_": "a.AdapterDrop", "name": "x", "robust": False})
    zero = changed(plain, "method", {"_target_": "a.AdapterDrop", "name": "x", "robust": 0})
    without = changed(plain, "method", {"_target_": "a.AdapterDrop", "name": "x"})
    assert run_id(switch) == run_id(without) != run_id(zero)


def test_nested_objects_are_known_by_their_class_alone(plain):
    nested = changed(plain, "method.nested", [{"_target_": "a.b.Class", "x": 1}])
    assert run_id(nested) == run_id(
        changed(plain, "method.nested", [{"_target_": "c.Class", "x": 1}])
    )
    assert run_id(nested) != run_id(
        changed(plain, "method.nested", [{"_target_": "a.b.Other", "x": 1}])
    )


def test_an_identity_names_no_module_and_no_place(plain):
    text = str(identity(plain))
    assert "loradrop." not in text and "://" not in text and ".jsonl" not in text


def test_a_composed_config_and_its_plain_form_have_one_id(plain):
    config = composed("backbone=llama2_7b", "task=gsm8k", "method=lora_drop", "seed=3")
    assert run_id(config) == run_id(plain)
    assert run_id(plain).startswith("llama2_7b-gsm8k-lora_drop-s3-")


def test_stage_1_is_shared_over_methods_and_epochs(plain):
    one = stage1_id(plain, data="d")
    for key, value in (
        ("method.name", "x"),
        ("method._target_", "y.Z"),
        ("recipe.epochs", 9),
        ("task.url", "z"),
    ):
        assert stage1_id(changed(plain, key, value), data="d") == one
    assert stage1_id(plain, data="other") != one
    assert stage1_id(changed(plain, "trainer.precision", "16-mixed"), data="d") != one
    assert one.startswith("llama2_7b-gsm8k-stage1-s3-")


def test_numbers_count_by_value_and_nulls_not_at_all():
    assert digest({"a": 2.0, "b": None}) == digest({"a": 2}) != digest({"a": 2.5})
    assert digest({"a": True}) != digest({"a": 1})
    assert digest([1, None]) != digest([1])
