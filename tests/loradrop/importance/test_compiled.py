"""Compiled models are measured like others, and are left as they were. Property test over generated
models.
"""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model, train_b
from helpers.stacks import agree, explicit, text
from helpers.toy_stacks import generated
from torch import nn

import loradrop


class CompileCounter:
    """A backend that runs graphs as they are, and counts them."""

    frame_count = 0

    def __call__(self, graph, example_inputs):
        self.frame_count += 1
        return graph.forward


def whole(model, counter):
    return torch.compile(model, backend=counter)


def in_place(model, counter):
    model.compile(backend=counter)
    return model


def a_part(model, counter):
    """Each layer of its own, as is done to compile faster."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for i, layer in enumerate(module):
                module[i] = torch.compile(layer, backend=counter)
    return model


def layers_in_place(model, counter):
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for layer in module:
                layer.compile(backend=counter)
    return model


WAYS = [whole, in_place, a_part, layers_in_place]


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("evaluated", [0, 2])
@pytest.mark.parametrize("compiled", WAYS)
@pytest.mark.parametrize("seed", [0, 3])
def test_generated_models(compiled, evaluated, seed):
    model, given, mask_of = generated(seed)
    expected, counter = explicit(model, given, mask_of), CompileCounter()
    output = model(**given)
    parameters = [id(p) for p in model.parameters()]
    model = compiled(model, counter)
    modules = list(model.modules())
    calls = [(m._compiled_call_impl, m.training, len(m._forward_pre_hooks)) for m in modules]
    with torch.no_grad():
        for _ in range(evaluated):
            model(**given)
    frames = counter.frame_count
    assert (frames > 0) is (evaluated > 0)
    for _ in range(2):
        agree(loradrop.measure(model, [given]), expected)
    assert counter.frame_count == frames  # nothing was compiled for it
    assert list(model.modules()) == modules and [id(p) for p in model.parameters()] == parameters
    assert [
        (m._compiled_call_impl, m.training, len(m._forward_pre_hooks)) for m in modules
    ] == calls
    with torch.no_grad():
        torch.testing.assert_close(model(**given), output)
    # and what was, is used again
    assert counter.frame_count == frames if evaluated else counter.frame_count > 0


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [whole, in_place])
def test_a_model_of_transformers_goes_on_as_compiled_code(compiled):
    model = tiny_model("bert")
    loradrop.add_lora(model, rank=4)
    train_b(model)
    ids, mask = text()
    given = {"input_ids": ids, "attention_mask": mask}
    expected, counter = explicit(model, given, lambda name, x: mask), CompileCounter()
    model = compiled(model, counter)
    with torch.no_grad():
        model(**given)
        frames = counter.frame_count
        importance = loradrop.measure(model, [given])
        agree(importance, expected)
        model(**given)
    assert counter.frame_count == frames > 0
    loradrop.share(model, loradrop.select(importance, num_layers=1))
    assert loradrop.plan_of(model).kept == loradrop.select(importance, num_layers=1).kept
