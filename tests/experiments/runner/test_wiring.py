"""What a run does with a method's hooks: groups, penalty, steps, counts, the best epoch, and the
model made again.
"""

from __future__ import annotations

import pytest
import torch
from helpers.configs import composed

from experiments.config.identity import run_id
from experiments.config.validation import check
from experiments.runner.components import RunComponents
from experiments.runner.execution import run
from experiments.runner.probe import RunProbe
from experiments.runner.record import describe
from experiments.runner.restore import restore
from experiments.runner.training import fit
from loradrop.heads import head_parameters
from loradrop.methods.base import Method
from loradrop.training.module import SequenceModule

pytestmark = pytest.mark.slow
STEPS = 18


def trained(config, folder):
    components = RunComponents(check(config))
    module, _ = fit(components, folder, None, RunProbe(components, folder / "stage1"))
    return components, module


def test_adalora_cuts_its_budget_in_a_run_and_its_best_epoch_is_one_that_keeps_it(tmp_path):
    components, module = trained(
        composed(tmp_path, "method=adalora", "method.interval=1"), tmp_path
    )
    result = describe(components, module)
    sizes = {"query": 257, "key": 257, "value": 257}  # of a triplet: d_in + d_out + 1
    assert sum(sum(rank) for rank in components.method._config.rank_pattern.values()) == 8 * 72
    active = 0
    for name, layer in components.method._layers().items():
        live = int((layer.lora_E["default"] != 0).sum())
        active += live * (layer.in_features + layer.out_features + 1)
        assert sizes.get(name.rpartition(".")[2], 0) in (
            0,
            layer.in_features + layer.out_features + 1,
        )
    assert result["parameters"]["adapter"] == active
    # the last ceil(0.48 * 18) steps have the target budget: they begin in the second epoch
    assert result["metrics"]["best"]["epoch"] >= 2
    live = sum(
        int((value != 0).sum()) for name, value in module.best["state"].items() if "lora_E" in name
    )
    assert live <= 8 * 72


@pytest.mark.parametrize("method", ["vera", "prompt_tuning", "prefix_tuning", "lora", "full"])
def test_the_adapter_s_learning_rate_is_of_what_trains_outside_the_head(tmp_path, method):
    rates = ["recipe.learning_rate=0.01", "recipe.adapter_learning_rate=0.123"]
    components = RunComponents(check(composed(tmp_path, f"method={method}", *rates)))
    found = learning_rates(components)
    head = {name for name, _ in head_parameters(components.model)}
    assert {name for name, rate in found.items() if rate == 0.01} == head & found.keys() != set()
    assert {rate for name, rate in found.items() if name not in head} == {0.123}


def test_without_one_of_its_own_the_adapter_has_the_learning_rate(tmp_path):
    rates = ["recipe.learning_rate=0.01", "recipe.adapter_learning_rate=null"]
    assert set(
        learning_rates(RunComponents(check(composed(tmp_path, "method=vera", *rates)))).values()
    ) == {0.01}


def learning_rates(components):
    """Of the trained parameters, by their names."""
    module = SequenceModule(components.model, components.data, components.recipe, components.method)
    module.trainer = type("Trainer", (), {"estimated_stepping_batches": STEPS})()
    names = {id(parameter): name for name, parameter in components.model.named_parameters()}
    groups = module.configure_optimizers()["optimizer"].param_groups
    found = {
        names[id(parameter)]: group["initial_lr"]
        for group in groups
        for parameter in group["params"]
    }
    assert found.keys() == {
        name for name, p in components.model.named_parameters() if p.requires_grad
    }
    return found


class Spy(Method):
    """Notes what a run asks of it; its penalty's gradient alone reaches one number."""

    def __init__(self, settled_from):
        super().__init__("spy")
        self.settled_from, self.steps = settled_from, []

    def install(self, model):
        model.register_parameter("only_punished", torch.nn.Parameter(torch.ones(())))

    def penalty(self, model):
        return 3 * model.only_punished

    def on_step_end(self, model, step):
        assert float(model.only_punished.grad) == pytest.approx(3)
        self.steps.append(step)

    def is_final(self, step):
        return step >= self.settled_from


@pytest.mark.parametrize(("settled_from", "earliest"), [(0, 1), (7, 2), (STEPS, 3)])
def test_penalty_steps_and_epochs_that_count(tmp_path, settled_from, earliest):
    components = RunComponents(
        check(composed(tmp_path, "method=linear_probe", "recipe.max_grad_norm=null"))
    )
    components.method = Spy(settled_from)
    components.method.install(components.model)
    module, _ = fit(components, tmp_path, None, RunProbe(components, tmp_path / "stage1"))
    assert components.method.steps == list(range(1, STEPS + 1))
    primary = components.data.task.primary
    candidates = [epoch for epoch in module.epochs if epoch["epoch"] >= earliest]
    assert module.best["epoch"] == max(candidates, key=lambda epoch: epoch[primary])["epoch"]


@pytest.mark.parametrize(
    ("method", "expected"),
    [("sparse_adapter", 24_576), ("lora_drop", None), ("vera", 15_360), ("prefix_tuning", 61_440)],
)
def test_counts_and_the_model_made_again(tmp_path, monkeypatch, method, expected):
    config = composed(tmp_path, f"method={method}", "task.train_size=64", "recipe.epochs=1")
    id = run_id(config)
    result = run(config).result
    assert expected in (None, result.parameters.adapter)
    model, _, again = restore(id, tmp_path)
    assert again == result and not model.training
    components = RunComponents(check(config))
    right = rows = 0
    with torch.no_grad():
        for batch in components.data.evaluation_loaders()[0]:
            labels = batch.pop("labels")
            right += int((model(**batch).logits.argmax(-1) == labels).sum())
            rows += len(labels)
    assert right / rows == result.metrics.best.scores["accuracy"]
    monkeypatch.setattr("loradrop.backbones.Backbone.fingerprint", lambda *_: "others")
    with pytest.raises(ValueError, match=r"loradrop/tiny_roberta are others than those of the run"):
        restore(id, tmp_path)


def test_what_is_measured_comes_on_the_device_of_the_run_and_leaves_room_for_gradients(tmp_path):
    components = RunComponents(check(composed(tmp_path, "method=linear_probe")))
    probe = RunProbe(components, tmp_path)
    components.device = torch.device("meta")
    sizes = {
        gradients: [len(b["labels"]) for b in probe.batches(range(64), gradients)]
        for gradients in (True, False)
    }
    assert sizes == {True: [16] * 4, False: [32] * 2}
    assert all(
        value.device.type == "meta" for batch in probe.batches(range(8)) for value in batch.values()
    )


def test_a_schedule_that_does_not_fit_is_no_failed_run(tmp_path):
    with pytest.raises(ValueError, match="AdaLoRA's schedule does not fit a run of 18 steps"):
        RunComponents(check(composed(tmp_path, "method=adalora", "method.interval=100")))
