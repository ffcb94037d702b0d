"""Convert results of older schemas to the current one. Does not import torch.

Schema 1 used other names for some settings, methods, backbones and classes. Its configs are
converted key by key, so that they have current ids (experiments.config.identity) and can be built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = 2  # raise it when a key of a result file, or of its config, is renamed
UNKNOWN = "unknown"  # for a fingerprint that early results lack
NAMES = {
    "backbone": {"minilm": "all_minilm_l6"},
    "method": {
        "last_quarter": "last_layers",
        "head": "linear_probe",
        "lora_drop_top_k": "lora_drop_upper_layers",
    },
}
METHOD_KEYS = {
    "which": "strategy",
    "k": "num_layers",
    "jointly": "across_module_types",
    "budget": "parameter_ratio",
    "average": "average_over",
    "targets": "target_modules",
    "weights": "kept_init",
    "shared_weights": "shared_init",
}
METHOD_VALUES = {("strategy", "top"): "upper_layers"}
CLASSES = {  # path of a class in schema 1 -> current path
    "experiments.tracking.csv_logger": "experiments.runner.loggers.csv_logger",
    "experiments.tracking.wandb_logger": "experiments.runner.loggers.wandb_logger",
    "loradrop.methods.head.Head": "loradrop.methods.linear_probe.LinearProbe",
    "loradrop.methods.last_quarter.LastLayers": "loradrop.methods.last_layers.LastLayers",
    "loradrop.metrics.Accuracy": "loradrop.metrics.labels.Accuracy",
    "loradrop.metrics.AccuracyF1": "loradrop.metrics.labels.AccuracyF1",
    "loradrop.metrics.Matthews": "loradrop.metrics.labels.Matthews",
    "loradrop.metrics.Spearman": "loradrop.metrics.labels.Spearman",
    "loradrop.tasks.mini.Mini": "loradrop.tasks.builtin.labels.Mini",
    "loradrop.tasks.mini_text.MiniText": "loradrop.tasks.builtin.text.MiniText",
    "loradrop.text_metrics.FinalAnswer": "loradrop.metrics.text.FinalAnswer",
    "loradrop.text_metrics.TextOverlap": "loradrop.metrics.text.TextOverlap",
}
OWN_RATE = ("VeRA", "PromptTuning", "PrefixTuning")  # had method.learning_rate


def migrate(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the fields of a result file to the current schema.

    Args:
        plain: The contents of the file.

    Returns:
        The fields without `schema`.

    Raises:
        ValueError: If this version does not know the schema.
    """
    version = plain.get("schema")
    if version not in (1, SCHEMA):
        raise ValueError(f"this version reads schemas up to {SCHEMA}, not {version!r}")
    fields = {key: value for key, value in plain.items() if key != "schema"}
    if version == 1:
        fields["config"] = migrate_config(fields["config"])
        if fields.get("status") == "finished":
            fields.setdefault("weights_fingerprint", UNKNOWN)
    return fields


def migrate_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a recorded config to current keys, names and classes; current configs stay as is."""
    config = {key: _with_classes(node) for key, node in config.items()}
    method, path = config["method"], str(config["method"].get("_target_"))
    for group, names in NAMES.items():
        config[group]["name"] = names.get(config[group]["name"], config[group]["name"])
    if path.startswith("loradrop."):  # a user's own method keeps its keys
        method = {METHOD_KEYS.get(key, key): value for key, value in method.items()}
        method = {key: _renamed_value(key, value) for key, value in method.items()}
        if path.rpartition(".")[2] in OWN_RATE and "learning_rate" in method:
            config["recipe"]["adapter_learning_rate"] = method.pop("learning_rate")
        config["method"] = method
    return config


def _with_classes(node: Any) -> Any:
    """A copy of a group's node with the current paths of classes."""
    if not isinstance(node, Mapping):
        return node
    return {
        key: CLASSES.get(value, value) if isinstance(value, str) else value
        for key, value in node.items()
    }


def _renamed_value(key: str, value: Any) -> Any:
    return METHOD_VALUES.get((key, value), value) if isinstance(value, str) else value
