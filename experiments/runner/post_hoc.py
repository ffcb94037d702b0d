"""Measure a finished run's model. Each measurement is computed once and stored with the result.

distribution   ||dW x||^2 of every token, by module type and layer (Figures 2 and 4 to 8)
removal        scores and loss as LoRAs are removed layer by layer (layer_removal)

Both use the weights of the best epoch. torch is imported only to compute, not to read stored ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments import results

MAX_ROWS = 5000  # the size of the stratified sample of the training set
BIN = 0.25  # width of a bin, in powers of ten
ORDERS = {
    "least important first": 1,
    "most important first": 1,
    "random": 3,
}  # name -> number of permutations
VERSION = 1  # raise it when an analysis changes


def distribution(id: str, outputs: str | Path) -> dict[str, Any]:
    """Count tokens by ||dW x||^2, in equal bins of its logarithm, the same for all modules.

    Tokens for which a LoRA's output is exactly zero are in no bin.

    Args:
        id: The run.
        outputs: The folder of results.

    Returns:
        {"log10_edges": [...], "counts": {module type: {layer: [...]}},
        "mean": {module type: {layer: g}}, "tokens": number, "rows": number}

    Raises:
        FileNotFoundError, ValueError: As restore.restore.
    """
    return _kept(id, outputs, "distribution", _distribution)


def removal(id: str, outputs: str | Path) -> dict[str, Any]:
    """Loss and primary metric on the evaluation rows with the LoRAs of some layers set to zero.

    Args:
        id: The run.
        outputs: The folder of results.

    Returns:
        {"layers": all layers by ascending importance (mean of y over module types),
        "importance": {layer: y}, "alone": {layer: scores without it}, "whole": scores with all,
        "orders": {name: [[scores after removing 0, 1, ... layers], ...]}},
        where scores are {"loss": number, "score": fraction}; of a task that generates text, those
        of runner.text_scores.

    Raises:
        FileNotFoundError, ValueError: As restore.restore.
    """
    return _kept(id, outputs, "removal", _removal)


def stored(id: str, outputs: str | Path, name: str) -> dict[str, Any] | None:
    """A measurement that was made before; None if there is none, or an older version made it.

    Args:
        id: The run.
        outputs: The folder of results.
        name: One of results.ANALYSES.
    """
    content = results.read_analysis(outputs, id, name)
    return content if content is not None and content["version"] == VERSION else None


def _kept(
    id: str, outputs: str | Path, name: str, compute: Callable[[str, Path], dict[str, Any]]
) -> dict[str, Any]:
    content = stored(id, outputs, name)
    if content is None:
        content = {"version": VERSION, **compute(id, Path(outputs))}
        results.write_analysis(outputs, id, name, content)
    return content


def _setup(id: str, outputs: Path) -> Any:
    """Load the objects of a run with its trained weights."""
    import torch

    from experiments.config.validation import check
    from experiments.runner.components import RunComponents
    from experiments.runner.restore import finished, load_trained

    config, result = finished(id, outputs)
    config.trainer.accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    components = RunComponents(check(config))
    if (components.weights, components.data.fingerprint) != (
        result.weights_fingerprint,
        result.data_fingerprint,
    ):
        raise ValueError(f"{id} was made with other pretrained weights or data than those at hand")
    load_trained(components.model, components.method, result, results.run_folder(outputs, id))
    return components


def _distribution(id: str, outputs: Path) -> dict[str, Any]:
    import numpy as np

    from experiments.runner.probe import RunProbe
    from loradrop.importance.measurement import measure

    components = _setup(id, outputs)
    probe = RunProbe(components, outputs / "cache" / "stage1")
    rows = probe.sample(min(1.0, MAX_ROWS / len(components.data.train)))
    with probe.autocast():
        importance = measure(components.model, probe.batches(rows), squared_norms=True)
    logs = {
        kind: {
            layer: np.log10(norms[norms > 0].double().numpy()) for layer, norms in layers.items()
        }
        for kind, layers in importance.squared_norms.items()
    }
    every = [values for layers in logs.values() for values in layers.values() if len(values)]
    if not every:
        raise ValueError(f"{id}: all LoRA outputs are zero")
    least, most = min(values.min() for values in every), max(values.max() for values in every)
    edges = [BIN * i for i in range(math.floor(least / BIN), math.floor(most / BIN) + 2)]
    counts = {
        kind: {
            str(layer): np.histogram(values, edges)[0].tolist() for layer, values in layers.items()
        }
        for kind, layers in logs.items()
    }
    mean = {
        kind: {str(layer): g for layer, g in layers.items()}
        for kind, layers in importance.values.items()
    }
    return {
        "log10_edges": edges,
        "counts": counts,
        "mean": mean,
        "tokens": importance.tokens,
        "rows": len(rows),
    }


def _removal(id: str, outputs: Path) -> dict[str, Any]:
    from experiments.common.console import progress
    from experiments.runner.probe import RunProbe
    from loradrop.importance.measurement import measure

    components = _setup(id, outputs)
    probe = RunProbe(components, outputs / "cache" / "stage1")
    rows = probe.sample(min(1.0, MAX_ROWS / len(components.data.train)))
    with probe.autocast():
        normalized = measure(components.model, probe.batches(rows)).normalized
    importance = {
        layer: sum(y[layer] for y in normalized.values()) / len(normalized)
        for layer in next(iter(normalized.values()))
    }
    ascending = sorted(importance, key=lambda layer: (importance[layer], layer))
    orders = {"least important first": [ascending], "most important first": [ascending[::-1]]}
    orders["random"] = [
        random.Random(i).sample(ascending, len(ascending)) for i in range(ORDERS["random"])
    ]
    cuts = {
        frozenset(order[:n])
        for lists in orders.values()
        for order in lists
        for n in range(len(order) + 1)
    }
    cuts |= {frozenset([layer]) for layer in ascending}
    bar = progress(sorted(cuts, key=sorted), f"{id}: removing layers")
    scores = {cut: _scores(components, probe, cut) for cut in bar}
    return {
        "layers": ascending,
        "importance": {str(layer): y for layer, y in importance.items()},
        "whole": scores[frozenset()],
        "alone": {str(layer): scores[frozenset([layer])] for layer in ascending},
        "orders": {
            name: [[scores[frozenset(order[:n])] for n in range(len(order) + 1)] for order in lists]
            for name, lists in orders.items()
        },
    }


def _scores(components: Any, probe: Any, without: frozenset[int]) -> dict[str, float]:
    """Loss and primary metric on the evaluation rows without the LoRAs of some layers."""
    import torch

    from experiments.runner.text_scores import text_scores
    from loradrop.importance.moments import evaluating

    task, losses, rows, outputs = components.data.task, 0.0, 0, {}
    with (
        torch.no_grad(),
        evaluating(components.model),
        probe.autocast(),
        _without(components.model, without),
    ):
        if task.generates:
            return text_scores(components)
        for split, loader in zip(
            components.data.evaluation, components.data.evaluation_loaders(), strict=True
        ):
            logits, labels = [], []
            for batch in loader:
                batch = {key: value.to(components.device) for key, value in batch.items()}
                output = components.model(**batch)
                losses += float(output.loss) * len(batch["labels"])
                rows += len(batch["labels"])
                logits.append(output.logits.float().cpu())
                labels.append(batch["labels"].cpu())
            outputs[split] = task.decode(torch.cat(logits).numpy()), torch.cat(labels).numpy()
    return {"loss": losses / rows, "score": task.score(outputs)[task.primary]}


@contextmanager
def _without(model: Any, layers: Collection[int]) -> Iterator[None]:
    """Scale the LoRAs of these layers by zero during the block."""
    from loradrop.lora.inject import lora_sites

    modules = [module for site, module in lora_sites(model).items() if site.layer in layers]
    alphas = [module.alpha for module in modules]
    try:
        for module in modules:
            module.alpha = 0.0
        yield
    finally:
        for module, alpha in zip(modules, alphas, strict=True):
            module.alpha = alpha
