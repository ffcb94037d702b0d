"""plan_of tells layers that lost their LoRA from layers that never had one."""

from __future__ import annotations

import copy

import pytest
from conftest import tiny_model, train_b
from peft import LoraConfig, PeftModel, get_peft_model

import loradrop
from loradrop.importance.measurement import uniform
from loradrop.lora.inject import lora_sites

TARGETS = ["query", "value"]


def own(layers=(0, 2)):
    model = tiny_model()
    loradrop.add_lora(
        model, rank=4, target_modules=[f"layer.{i}.*.{kind}" for i in layers for kind in TARGETS]
    )
    train_b(model)
    return model


def peft(layers=(0, 2), **settings):
    config = LoraConfig(
        r=4,
        target_modules=TARGETS,
        layers_to_transform=list(layers),
        init_lora_weights=False,
        **settings,
    )
    return get_peft_model(tiny_model(), config).eval()


@pytest.mark.parametrize("make", [own, peft])
def test_layers_without_lora_were_not_dropped(make):
    plan = loradrop.plan_of(make())
    assert plan.kept == {"query": (0, 2), "value": (0, 2)} and plan.others == {
        "query": (),
        "value": (),
    }
    assert plan.never_adapted == {"query": (1,), "value": (1,)}
    assert plan.parameters == plan.lora_parameters == 4 * 4 * 64
    assert (
        "query: own LoRA in layers 0, 2; one shared LoRA in no layer; never adapted: layer 1"
        in str(plan)
    )
    whole = loradrop.plan_of(make((0, 1, 2)))
    assert (
        not whole.never_adapted
        and "never" not in str(whole)
        and "never_adapted" not in whole.to_dict()
    )


@pytest.mark.parametrize("do_share", [True, False])
@pytest.mark.parametrize("make", [own, peft])
def test_dropped_and_never_adapted(make, do_share, batch, tmp_path):
    model = make()
    plan = loradrop.select(loradrop.measure(model, [batch]), num_layers=1, share=do_share)
    if do_share:  # a layer that shares with none keeps its own
        plan = loradrop.SharingPlan(
            dict.fromkeys(TARGETS, ()), dict.fromkeys(TARGETS, (0, 2)), True, 4 * 4 * 64, 2 * 4 * 64
        )
    loradrop.share(model, plan)
    found = loradrop.plan_of(model)
    assert found == plan and found.never_adapted == {"query": (1,), "value": (1,)}
    assert loradrop.plan_of(copy.deepcopy(model)) == plan
    loradrop.save_pretrained(model, tmp_path)
    assert loradrop.SharingPlan.load(tmp_path / "plan.json").never_adapted == found.never_adapted
    for as_peft in (False, True):
        loaded = loradrop.plan_of(loradrop.from_pretrained(tiny_model(), tmp_path, as_peft=as_peft))
        assert loaded == plan and loaded.never_adapted == found.never_adapted


def test_what_was_dropped_is_forgotten_with_the_lora(batch):
    model = own((0, 1, 2))
    loradrop.share(
        model, loradrop.select(loradrop.measure(model, [batch]), num_layers=1, share=False)
    )
    assert loradrop.plan_of(model).others["query"]
    loradrop.remove_lora(model)
    loradrop.add_lora(model, rank=2, target_modules=["layer.0.*.query"])
    plan = loradrop.plan_of(model)
    assert plan.others == {"query": ()} and plan.never_adapted == {"query": (1, 2)}
    theirs = peft((0, 1, 2))
    loradrop.share(
        theirs, loradrop.select(loradrop.measure(theirs, [batch]), num_layers=1, share=False)
    )
    config = LoraConfig(
        r=4, target_modules=TARGETS, layers_to_transform=[0], init_lora_weights=False
    )
    plan = loradrop.plan_of(get_peft_model(theirs.unload(), config))
    assert plan.others == {"query": (), "value": ()} and plan.never_adapted == {
        "query": (1, 2),
        "value": (1, 2),
    }


def test_removing_by_name_drops():
    model = own()
    loradrop.remove_lora(model, [next(iter(lora_sites(model))).name])
    plan = loradrop.plan_of(model)
    assert (
        plan.others["query"] == (0,)
        and plan.never_adapted == {"query": (1,), "value": (1,)}
        and not plan.share
    )


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.parametrize(
    "make", [own, peft, lambda layers: peft(layers, rank_pattern={"query": 2})]
)
def test_a_module_type_that_loses_all_its_layers_still_counts(make, tmp_path):
    model = make((0, 1, 2))
    importance = uniform(model)
    importance.values["query"] = dict.fromkeys(range(3), 1e-6)
    plan = loradrop.select(importance, threshold=0.9, across_module_types=True, share=False)
    assert plan.others == {"query": (0, 1, 2), "value": ()}
    loradrop.share(model, plan)
    assert loradrop.plan_of(model) == plan
    loradrop.share(model, plan)  # carried out already
    loradrop.save_pretrained(model, tmp_path)
    stored = loradrop.SharingPlan.load(tmp_path / "plan.json")
    assert stored == plan
    for as_peft in (False, True):
        loaded = loradrop.from_pretrained(tiny_model(), tmp_path, as_peft=as_peft)
        assert loradrop.plan_of(loaded) == plan
    older = loradrop.SharingPlan({"value": (0, 1, 2)}, {"value": ()}, True, 768, 768)
    older.save(tmp_path / "plan.json")  # files that do not know the type
    assert loradrop.plan_of(loradrop.from_pretrained(tiny_model(), tmp_path)) == older


def test_files_of_peft_alone(batch, tmp_path):
    """PEFT's files do not say what was dropped: what has no LoRA was never adapted, as far as they
    tell.
    """
    model = peft()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert loradrop.plan_of(loaded).never_adapted == {"query": (1,), "value": (1,)}
