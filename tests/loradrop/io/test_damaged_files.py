"""Files and plans that were damaged in one place: each is refused, the model is as it was."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import tiny_model
from helpers.adapter_files import (
    HEAD,
    QUERY,
    assert_refused,
    own_model,
    read_files,
    write_files,
)

import loradrop
from loradrop.checksums import read_json, write_json

# PEFT, of what the files lack
pytestmark = pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")


def without(name):
    return lambda config, state: state.pop(name)


def renamed(name, new):
    return lambda config, state: state.update({new: state.pop(name)})


def changed(name, change):
    return lambda config, state: state.update({name: change(state[name])})


def config_of(**values):
    return lambda config, state: config.update(values)


DAMAGES = {
    "no B": (without(f"{QUERY}.lora_B.weight"), "an A and no B for .*query"),
    "no A": (without(f"{QUERY}.lora_A.weight"), "no A and a B for .*query"),
    "no pair": (
        lambda config, state: (
            state.pop(f"{QUERY}.lora_A.weight"),
            state.pop(f"{QUERY}.lora_B.weight"),
        ),
        (
            "targets .*query, but its files have no A and B|files have no .*query.lora_A|only in"
            " the plan: query 1"
        ),
    ),
    "no head": (
        without(HEAD),
        (
            r"classifier is saved, but its files have no classifier.out_proj.weight|KeyError:"
            r" .*out_proj.weight"
        ),
    ),
    "another tensor": (
        lambda config, state: state.update(
            {"base_model.model.roberta.pooler.weight": torch.zeros(2)}
        ),
        r"it has no roberta\.pooler\.weight|PEFT finds no place for .*pooler\.weight",
    ),
    "another layer": (
        lambda config, state: state.update(
            {
                f"{QUERY}.lora_{m}.weight".replace("layer.1", "layer.7"): state[
                    f"{QUERY}.lora_{m}.weight"
                ]
                for m in "AB"
            }
        ),
        r"layer\.7",
    ),
    "renamed module": (renamed(f"{QUERY}.lora_A.weight", f"{QUERY}x.lora_A.weight"), "queryx?"),
    "renamed head": (renamed(HEAD, HEAD.replace("out_proj", "outproj")), "out_?proj"),
    "narrow A": (
        changed(f"{QUERY}.lora_A.weight", lambda t: t[:, :-1]),
        r"query|size mismatch|differ",
    ),
    "flat B": (
        changed(f"{QUERY}.lora_B.weight", lambda t: t.flatten()),
        r"query|size mismatch|differ",
    ),
    "no dimension": (
        changed(f"{QUERY}.lora_A.weight", lambda t: t.sum()),
        r"query|size mismatch|differ",
    ),
    "whole numbers": (
        lambda config, state: state.update(
            {name: tensor.long() for name, tensor in state.items() if ".query." in name}
        ),
        r"one floating-point type|while loading|floating",
    ),
    "two types": (
        changed(f"{QUERY}.lora_A.weight", lambda t: t.bfloat16()),
        r"A in torch\.bfloat16|differ",
    ),
    "head of numbers": (changed(HEAD, lambda t: t.long()), r"out_proj"),
    "rank": (config_of(r=3), r"rank 3, but A is \(4, 32\)|size mismatch|no .*lora_A"),
    "no alpha": (
        lambda config, state: config.pop("lora_alpha"),
        r"no positive lora_alpha|not taken|alpha",
    ),
    "alpha in words": (config_of(lora_alpha="ten"), r"no positive lora_alpha|PEFT cannot put"),
    "dropout": (config_of(lora_dropout=1.5), r"lora_dropout must lie in|PEFT cannot put"),
    "targets": (
        config_of(target_modules=["query", "value", "key"]),
        r"targets .*key, but its files have no|files have no .*key",
    ),
    "no lora": (config_of(peft_type="IA3"), "LoRA is needed, not IA3: use PeftModel"),
}


@pytest.mark.parametrize("as_peft", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused(damage, as_peft, tmp_path):
    loradrop.save_pretrained(own_model(share=False), tmp_path)
    config, state, _ = read_files(tmp_path)
    change, match = DAMAGES[damage]
    change(config, state)
    write_files(tmp_path, config, state)
    base = tiny_model()
    if as_peft and damage == "no alpha":
        return  # PEFT's default for it
    assert_refused(
        base, lambda: loradrop.from_pretrained(base, tmp_path, as_peft=as_peft), ValueError, match
    )


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "plan.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"{}", b'{"kept": 3, "others": {}}', None]
)
def test_a_damaged_file_is_named(name, content, tmp_path):
    loradrop.save_pretrained(own_model(), tmp_path)
    path = tmp_path / name
    path.write_bytes(
        path.read_bytes()[: len(path.read_bytes()) // 2] if content is None else content
    )
    base = tiny_model()
    assert_refused(
        base, lambda: loradrop.from_pretrained(base, tmp_path), ValueError, re.escape(str(path))
    )


PLANS = {
    "other layers": (
        lambda plan: plan["kept"].update(query=[9]),
        "does not fit the adapter: only in the plan: query 9",
    ),
    "both": (
        lambda plan: plan["kept"].update(query=[0, 1, 2]),
        "the plan contradicts itself: query . is to keep",
    ),
    "values differ": (
        lambda plan: plan.update(
            kept={"query": [], "value": []}, others={"query": [0, 1, 2], "value": [0, 1, 2]}
        ),
        "but their stored A's and B's differ; delete plan.json if it belongs to another adapter",
    ),
    "in words": (lambda plan: plan.update(share="no"), "plan.json is damaged"),
    "layers in words": (lambda plan: plan["kept"].update(query="all"), "plan.json is damaged"),
}


@pytest.mark.parametrize("as_peft", [False, True])
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("case", PLANS)
def test_a_plan_that_is_not_the_adapters(case, compact, as_peft, tmp_path):
    loradrop.save_pretrained(own_model(), tmp_path, compact=compact)
    plan = read_json(tmp_path / "plan.json")
    change, match = PLANS[case]
    change(plan)
    write_json(tmp_path / "plan.json", plan)
    base = tiny_model()
    assert_refused(
        base, lambda: loradrop.from_pretrained(base, tmp_path, as_peft=as_peft), ValueError, match
    )


def test_the_two_forms_are_not_mixed(tmp_path):
    loradrop.save_pretrained(own_model(), tmp_path)
    with pytest.raises(
        ValueError, match=r"holds an adapter of the other form \(adapter_config.json"
    ):
        loradrop.save_pretrained(own_model(share=False), tmp_path, compact=True)
    assert not (tmp_path / "compact_model.safetensors").exists()
