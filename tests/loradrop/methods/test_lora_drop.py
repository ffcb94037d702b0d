"""What LoRA-drop does with the values of stage 1, and that a method trains what it says."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model, train_b
from helpers.methods import Batches, lora_drop

from loradrop.backbones import freeze_encoder
from loradrop.importance.importance import Importance
from loradrop.importance.measurement import measure
from loradrop.lora.inject import lora_sites
from loradrop.methods.base import Stage1, trainable_values
from loradrop.methods.full import Full
from loradrop.methods.linear_probe import LinearProbe
from loradrop.methods.lora import LoRA
from loradrop.seeds import Seeds
from loradrop.selection import select

# query keeps layer 1, value layer 2
IMPORTANCE = Importance(
    {"query": {0: 1.0, 1: 8.0, 2: 1.0}, "value": {0: 1.0, 1: 1.0, 2: 8.0}},
    {kind: dict.fromkeys(range(3), 4 * 64) for kind in ("query", "value")},
)


class Given:
    """A probe whose stage 1 has been done: it trains B of the model and measures IMPORTANCE."""

    def __init__(self, model, seed=0):
        self.model, self.seeds = model, Seeds(seed)

    def stage1(self, settings, compute):
        assert set(settings) >= {"rank", "alpha", "sample_ratio", "sample_epochs", "average_over"}
        train_b(self.model)
        with torch.no_grad():
            self.model.classifier.out_proj.weight += 1
        self.trained = trainable_values(self.model)
        return Stage1(IMPORTANCE, self.trained)


def method(**changes):
    return lora_drop(**({"threshold": 0.8, "num_layers": None} | changes))


def prepared(**changes):
    """(model after prepare, its values before stage 1, its values after stage 1)."""
    model, drop = tiny_model(), method(**changes)
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    drop.install(model)
    before, probe = trainable_values(model), Given(model)
    drop.prepare(model, probe)
    return model, before, probe.trained


def lora_b(model, state, kind, layer):
    name = next(
        site.name for site in lora_sites(model) if (site.module_type, site.layer) == (kind, layer)
    )
    return model.get_submodule(name).lora_B, state[f"{name}.lora_B"]


@pytest.mark.parametrize("weights", ["fresh", "keep"])
@pytest.mark.parametrize("shared_init", ["fresh", "first", "mean"])
def test_where_weights_come_from(weights, shared_init):
    model, before, trained = prepared(kept_init=weights, shared_init=shared_init)
    for kind, kept in (("query", 1), ("value", 2)):
        now, then = lora_b(model, before if weights == "fresh" else trained, kind, kept)
        assert torch.equal(now, then) and bool(now.any()) == (weights == "keep")
        first, second = (layer for layer in range(3) if layer != kept)
        shared, was = lora_b(model, before if shared_init == "fresh" else trained, kind, first)
        if shared_init == "mean":
            was = (was + lora_b(model, trained, kind, second)[1]) / 2
        torch.testing.assert_close(shared.detach(), was)
        assert lora_b(model, trained, kind, second)[0] is shared
    # the head starts afresh
    assert torch.equal(model.classifier.out_proj.weight, before["classifier.out_proj.weight"])


def test_the_random_ablation_follows_the_run_s_seed():
    plans = []
    for seed in range(8):
        model, drop = freeze_encoder(tiny_model()), method(strategy="random")
        drop.install(model)
        drop.prepare(model, Given(model, seed))
        assert drop.plan == select(IMPORTANCE, seed, threshold=0.8, strategy="random")
        plans.append(str(drop.plan))
    assert len(set(plans)) > 1


@pytest.mark.parametrize("average_over", ["tokens", "examples"])
def test_the_average_is_the_measurement_s(average_over, batch):
    model, drop = freeze_encoder(tiny_model()), method(average_over=average_over)
    drop.install(model)
    probe = Batches(batch)
    probe.stage1 = lambda settings, compute: compute()
    drop.prepare(model, probe)
    fresh = freeze_encoder(tiny_model())
    method().install(fresh)
    train_b(fresh)
    results = {name: measure(fresh, [batch], name).values for name in ("tokens", "examples")}
    assert drop.importance.values == results[average_over]
    assert results["tokens"] != results["examples"]


def test_without_sharing_only_the_kept_layers_have_lora():
    model, _, _ = prepared(share=False)
    assert {(site.module_type, site.layer) for site in lora_sites(model)} == {
        ("query", 1),
        ("value", 2),
    }


def test_a_budget_that_cannot_be_met_is_said_on_installing():
    model = tiny_model()
    with pytest.raises(
        ValueError, match=r"parameter_ratio 0\.2 is too small: the shared LoRAs alone need 0\.333"
    ):
        method(threshold=None, parameter_ratio=0.2).install(model)
    with pytest.raises(ValueError, match="no layer would have a LoRA"):
        method(threshold=None, parameter_ratio=0.2, share=False).install(tiny_model())


def test_what_trains():
    model = tiny_model()
    LinearProbe("linear_probe").install(model.requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model = tiny_model()
    Full("full").install(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model = tiny_model()
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    LoRA("lora", rank=4, alpha=8, dropout=0.0, target_modules="query").install(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        f"classifier.{n}" for n, _ in model.classifier.named_parameters()
    }
    assert {name for name in trained if "lora_" in name} and not any(
        "value" in name for name in trained
    )
