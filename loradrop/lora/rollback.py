"""All or nothing: if a change of a model fails, the model is put back as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def unchanged_on_error(model: nn.Module, tensors: Iterable[Tensor] = ()) -> Iterator[None]:
    """Put a model's modules, parameters, hooks and flags back if the block raises.

    Args:
        model: The model that the block changes in place.
        tensors: Those of its tensors whose values the block may overwrite in place. They are
            copied.
    """
    # PEFT sets attributes of its own as well, so a module's whole dictionary is kept, and the
    # dictionaries in it
    before = [
        (
            module,
            dict(vars(module)),
            {k: dict(v) for k, v in vars(module).items() if isinstance(v, dict)},
        )
        for module in model.modules()
    ]
    # `data` too: PiSSA gives base weights other values in that way
    parameters = [
        (parameter, parameter.data, parameter.requires_grad) for parameter in model.parameters()
    ]
    values = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    except BaseException:
        for module, attributes, dictionaries in before:
            vars(module).clear()
            vars(module).update(attributes)
            for name, content in dictionaries.items():
                attributes[name].clear()
                attributes[name].update(content)
        for parameter, data, flag in parameters:
            parameter.data = data
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        raise
