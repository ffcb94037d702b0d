"""Every YAML composes and instantiates; typos are errors; the id of a run stands for what can
change its numbers.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import yaml
from conftest import composed
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.identity import run_id
from experiments.config.schema import CONF
from experiments.config.sweep import as_config, expand_sweep, run_configs
from experiments.config.validation import check, instantiate_group

GROUPS = ("backbone", "task", "method", "trainer", "logger")
FILES = sorted(Path(CONF).rglob("*.yaml"))


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent.name in GROUPS], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_yaml_composes_and_instantiates(path):
    group = path.parent.name
    config = composed(f"{group}={path.stem}")
    check(config)
    if group in ("backbone", "task", "method"):
        assert instantiate_group(group, config[group]).name == path.stem == config[group].name


# how a head says where values come from: a paper, somebody's code, an experiment of ours, another
# file
SOURCE = (
    r"arXiv|\w+/\w+@[0-9a-f]{7}|(Table|Figure|Section|Appendix) [A-Z\d]|paper|\w+\.yaml|et al\."
    r" (\d{4}|\(\d{4}\))"
)
SOURCE += "|seed 0|not tuned|tried|[cC]hosen"
NAMES = {
    "roberta_base": "RoBERTa-base",
    "roberta_large": "RoBERTa-large",
    "llama2_7b": "Llama-2-7b",
}
NAMES |= {
    "deberta_v3_base": "DeBERTaV3-base",
    "all_minilm_l6": "all-MiniLM-L6-v2",
    "mpnet_base": "all-mpnet-base-v2",
    "tiny_roberta": "[Tt]he built-in encoder",
}
NAMES |= {"tiny_llama": "[Tt]he built-in decoder"}


def head(path):
    """The comment that a file opens with, without Hydra's own line."""
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.startswith("# @package")
    ]
    return " ".join(
        line[1:].strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONF)))
def test_every_yaml_opens_with_a_sentence_of_what_it_is_and_where_its_values_come_from(path):
    text = head(path)
    assert len(text.split()) > 4 and re.search(r"[.?:]( |$)", text), f"no sentence: {text}"
    keys = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    assert text.partition(":")[0] not in keys, f"a setting that is commented out: {text}"
    folder = path.relative_to(CONF).parts[0]
    if folder in ("recipe", "method"):
        assert re.search(SOURCE, text), f"no source: {text}"
    if folder == "recipe" and path.parent.name in NAMES:
        assert re.search(NAMES[path.parent.name], text), f"the head of another backbone's: {text}"


def test_no_two_tasks_backbones_or_methods_have_one_head():
    for group in ("task", "backbone", "method", "experiment"):
        heads = [head(path) for path in (Path(CONF) / group).glob("*.yaml")]
        assert len(set(heads)) == len(heads) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted((Path(CONF) / "experiment").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_run_of_every_experiment_is_valid_and_distinct(path):
    if path.stem == "qlora":
        pytest.importorskip("bitsandbytes")
    configs = run_configs([f"experiment={path.stem}"])
    for config in configs:
        check(as_config(config))
        assert run_id(as_config(config)) == config["id"]
    assert len({config["id"] for config in configs}) == len(configs) > 0


def test_the_grid_of_learning_rates_is_every_method_s_own():
    configs = run_configs(["experiment=learning_rate_sensitivity", "task=rte,cola", "seed=0"])
    for config in configs:
        recipe = config["recipe"]
        assert recipe["adapter_learning_rate"] in (None, recipe["learning_rate"])
    assert (
        len(
            {
                (c["task"]["name"], c["method"]["name"], c["recipe"]["learning_rate"])
                for c in configs
            }
        )
        == 2 * 6 * 8
    )


@pytest.mark.parametrize("name", ["figure7", "figure8"])
def test_figure_7_shares_after_four_epochs_on_a_fifth(name):
    lora, drop = run_configs([f"experiment={name}"])
    assert (drop["method"]["sample_ratio"], drop["method"]["sample_epochs"]) == (0.2, 4)
    assert lora["recipe"] == drop["recipe"] and lora["recipe"]["epochs"] == 4


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("recipe.learning_rat=1", "learning_rat"),
        ("method.treshold=0.5", "treshold"),
        ("sed=1", "sed"),
        ("trainer.precison=32-true", "precison"),
        ("method=lora_dorp", "lora_dorp"),
        ("recipe.epochs=many", "many"),
    ],
)
def test_a_misspelt_key_on_the_command_line_is_an_error_that_names_it(override, word):
    with pytest.raises((ConfigCompositionException, OmegaConfBaseException), match=word):
        composed(override)


def test_a_misspelt_key_in_a_yaml_is_an_error_that_names_it_and_what_was_meant():
    config = composed()
    OmegaConf.set_struct(config, False)
    config.method.treshold = 0.5
    with pytest.raises(ValueError, match=r"method\.treshold: .*Did you mean threshold\?"):
        check(config)
    with pytest.raises(OmegaConfBaseException, match="learning_rat"):
        OmegaConf.merge(composed(), {"recipe": {"learning_rat": 1}})


def test_a_missing_key_and_a_wrong_type_are_named():
    config = composed()
    OmegaConf.set_struct(config, False)
    config.method.rank = "eight"
    with pytest.raises(ValueError, match=r"method\.rank must be int, got 'eight'"):
        check(config)
    del config.method.rank
    with pytest.raises(ValueError, match=r"method\.rank is missing"):
        check(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.threshold=0", "threshold must lie in"),
        ("method.threshold=1.5", "threshold must lie in"),
        ("method.parameter_ratio=0.5", "give one of threshold, parameter_ratio and num_layers"),
        ("method.sample_ratio=0", "sample_ratio must lie in"),
        ("method.rank=0", "rank must be at least 1"),
        (
            "method.average_over=median",
            "average_over must be one of tokens, examples, target_tokens",
        ),
        ("method.kept_init=old", "kept_init must be one of fresh, keep"),
        ("recipe.epochs=-1", r"recipe\.epochs must not be negative"),
        ("trainer.precision=float8", r"trainer\.precision must be one of"),
        ("task.metric=loradrop.metrics.labels.Nothing", "no such metric|there is no metric"),
    ],
)
def test_numbers_and_words_out_of_range(override, message):
    from loradrop.tasks.base import load_metric

    config = composed(override)

    def checked():
        check(config)
        load_metric(config.task.metric)

    with pytest.raises(ValueError, match=message):
        checked()


def test_the_id_is_readable_and_follows_what_can_change_a_number():
    base = run_id(composed("task=rte", "seed=3"))
    assert base.startswith("tiny_roberta-rte-lora_drop-s3-")
    same = [
        "paths.outputs=elsewhere",
        "logger=csv",
        "trainer.progress_bar=false",
        "trainer.num_workers=3",
        "save_weights=false",
    ]
    other = [
        "method.threshold=0.8",
        "recipe.epochs=7",
        "trainer.precision=bf16-mixed",
        "method.rank=4",
        "backbone.revision=abc",
    ]
    assert {run_id(composed("task=rte", "seed=3", o)) for o in same} == {base}
    assert (
        len({run_id(composed("task=rte", "seed=3", o)) for o in other} | {base}) == len(other) + 1
    )


def test_a_plan_is_the_product_of_its_sweeps_and_can_be_narrowed():
    ids = [
        run_id(config)
        for config in expand_sweep(["method=lora,lora_drop", "seed=range(0,3)", "task=rte"])
    ]
    assert len(set(ids)) == 6 and ids[0].startswith("tiny_roberta-rte-lora-s0")
    assert [config.seed for config in expand_sweep(["experiment=demo", "seed=5"])] == [5, 5, 5]
    assert {
        config.method.threshold
        for config in expand_sweep(["experiment=demo", "method=lora_drop", "method.threshold=0.8"])
    } == {0.8}
