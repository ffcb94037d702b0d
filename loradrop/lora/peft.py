"""The LoRA of a PEFT model as `measure` and `share` see LoRA: by site, each with its A, B and
scaling.

PEFT computes h = W x + s B A x with s = alpha / r, or alpha / sqrt(r) for rsLoRA, from a `lora_A`
and a `lora_B` for every adapter's name. Torch only: a model can hold PEFT's layers only where PEFT
has been imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from loradrop.lora.dropped import note_dropped
from loradrop.lora.inject import lora_modules, lora_sites, set_module
from loradrop.lora.layer import LoRALinear
from loradrop.lora.sites import Site, sites_of

# initial values that change the base weights; begins of PEFT's names
OUT_OF_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class PeftLoRA:
    """One adapter of one of PEFT's LoRA layers, with the interface of a LoRALinear.

    Setting `lora_A` or `lora_B` makes the layer use that very Parameter.
    """

    def __init__(self, layer: Any, adapter: str) -> None:
        self.layer, self.adapter = layer, adapter

    @property
    def lora_A(self) -> nn.Parameter:
        """A (r, d_in)."""
        return self.layer.lora_A[self.adapter].weight

    @lora_A.setter
    def lora_A(self, parameter: nn.Parameter) -> None:
        self.layer.lora_A[self.adapter].weight = parameter

    @property
    def lora_B(self) -> nn.Parameter:
        """B (d_out, r)."""
        return self.layer.lora_B[self.adapter].weight

    @lora_B.setter
    def lora_B(self, parameter: nn.Parameter) -> None:
        self.layer.lora_B[self.adapter].weight = parameter

    @property
    def rank(self) -> int:
        return self.layer.r[self.adapter]

    @property
    def scaling(self) -> float:
        return self.layer.scaling[self.adapter]

    @property
    def size(self) -> int:
        """Numbers of A and B, shared or not."""
        return self.lora_A.numel() + self.lora_B.numel()

    def down(self, x: Tensor) -> Tensor:
        """A x in float32: (..., d_in) -> (..., r)."""
        return x.float() @ self.lora_A.float().T

    def up(self, z: Tensor) -> Tensor:
        """B z in float32: (..., r) -> (..., d_out)."""
        return z.float() @ self.lora_B.float().T

    def register_forward_pre_hook(self, hook: Any, with_kwargs: bool = False) -> RemovableHandle:
        return self.layer.register_forward_pre_hook(hook, with_kwargs=with_kwargs)


LoRA = LoRALinear | PeftLoRA


def adapted_sites(model: nn.Module, adapter: str | None = None) -> dict[Site, LoRA]:
    """Find all LoRA of a model by site, its own or PEFT's, in the model's order.

    LoRA that PEFT has put on parameters (experts) is left out beside LoRA of linear modules; see
    skipped_parameters.

    Args:
        model: A model with LoRA.
        adapter: Which adapter of a PEFT model; None: the active one.

    Raises:
        TypeError: `model` is not a module.
        ValueError: No LoRA, no such adapter or none to be told, or a kind of LoRA whose update is
            not B A x (DoRA and other variants, PiSSA, a bias, embeddings, convolutions).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a torch.nn.Module or a PeftModel is needed, got {type(model).__name__}")
    layers, own = peft_layers(model), lora_modules(model)
    if layers and own:
        raise ValueError("the model holds LoRA of its own and of PEFT: use one of the two")
    if layers:
        adapter = adapter_name(layers.values(), adapter)
        _check_initial(configs(model).get(adapter))
        of_adapter = {name: layer for name, layer in layers.items() if adapter in _adapters(layer)}
        # experts' parameters, which PEFT adapts without a module; where there is nothing else, they
        # are refused
        modules = {
            name: layer for name, layer in of_adapter.items() if not _of_parameter(layer)
        } or of_adapter
        found = {name: _checked(name, layer, adapter) for name, layer in modules.items()}
        return dict(zip(sites_of(model, list(found)), found.values(), strict=True))
    kinds = sorted(
        {str(getattr(c.peft_type, "value", c.peft_type)) for c in configs(model).values()}
    )
    if kinds:
        raise ValueError(
            f"the PEFT adapter of the model is {', '.join(kinds)}; LoRA-drop needs LoRA"
        )
    if not own:
        raise ValueError(
            "the model holds no LoRA: call add_lora first, or give a PeftModel with LoRA"
        )
    if adapter is not None:
        raise ValueError(f"adapter='{adapter}' names an adapter of a PEFT model, and this is none")
    return dict(lora_sites(model))


def peft_layers(model: nn.Module) -> dict[str, Any]:
    """PEFT's LoRA layers by name."""
    peft = sys.modules.get("peft.tuners.lora.layer")
    return (
        {}
        if peft is None
        else {n: m for n, m in model.named_modules() if isinstance(m, peft.LoraLayer)}
    )


def skipped_parameters(model: nn.Module, adapter: str | None = None) -> list[str]:
    """Name the parameters whose LoRA adapted_sites leaves out, since PEFT has put it on no linear
    module (MoE experts).

    Args:
        model: A model with LoRA.
        adapter: As for adapted_sites.
    """
    layers = peft_layers(model)
    adapter = adapter_name(layers.values(), adapter) if layers else None
    found = {
        name: layer
        for name, layer in layers.items()
        if _of_parameter(layer) and adapter in _adapters(layer)
    }
    # several parameters of one module are wrapped into each other
    return [
        f"{name.replace('.base_layer', '')}.{layer.parameter_name}" for name, layer in found.items()
    ]


def configs(model: nn.Module) -> dict[str, Any]:
    """PEFT's config of each adapter of the model, {} for any other model."""
    found = (getattr(module, "peft_config", None) for module in model.modules())
    return next((config for config in found if isinstance(config, dict)), {})


def adapter_name(layers: Iterable[Any], adapter: str | None) -> str:
    """The adapter that is meant: the named one, or the only one that is active. ValueError where
    that is none.
    """
    layers = list(layers)
    present = list(dict.fromkeys(name for layer in layers for name in _adapters(layer)))
    if adapter is None:
        active = [
            name for name in present if any(name in layer.active_adapters for layer in layers)
        ]
        if len(active) == 1:
            return active[0]
        raise ValueError(
            f"{len(active)} adapters are active; name one of {', '.join(present)} (adapter=...)"
        )
    if adapter not in present:
        raise ValueError(f"the model has no LoRA adapter '{adapter}'; it has {', '.join(present)}")
    return adapter


@contextmanager
def activated(model: nn.Module, loras: Collection[LoRA]) -> Iterator[None]:
    """PEFT's adapter in use inside the block: beside others if it is active already, else alone,
    and then put back.

    ValueError where adapters are disabled: a layer's input would not be what training has seen.
    """
    peft = [lora for lora in loras if isinstance(lora, PeftLoRA)]
    if any(lora.layer.disable_adapters for lora in peft):
        raise ValueError("the model's adapters are disabled: enable them first")
    if all(lora.adapter in lora.layer.active_adapters for lora in peft):
        yield
        return
    layers = list(peft_layers(model).values())
    before = [list(layer.active_adapters) for layer in layers]
    flags = {p: p.requires_grad for layer in layers for p in layer.parameters()}
    try:
        for layer in layers:
            layer.set_adapter(peft[0].adapter)
        yield
    finally:
        for layer, names in zip(layers, before, strict=True):
            layer.set_adapter(names)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def remove_adapter(model: nn.Module, names: Iterable[str], adapter: str) -> None:
    """Take an adapter out of the named layers, in place, and out of its config's targets, so that
    PEFT saves what is left.

    A layer without any adapter left becomes its base module again.
    """
    config = configs(model).get(adapter)
    for name in names:
        layer: Any = model.get_submodule(name)
        note_dropped(layer.get_base_layer(), layer.r[adapter], adapter, config)
        # not delete_adapter, which would make another adapter of this layer active
        for part in (*layer.adapter_layer_names, *layer.other_param_names):
            container = getattr(layer, part)
            if adapter in container:
                del container[adapter]
        if not _adapters(layer):
            set_module(model, name, layer.get_base_layer())
    if config is not None:
        prefix = base_prefix(model)
        layers = peft_layers(model)
        config.target_modules = {
            n.removeprefix(prefix)
            for n, layer in layers.items()
            if adapter in _adapters(layer) and not _of_parameter(layer)
        }
        config.layers_to_transform = config.layers_pattern = None


def base_prefix(model: nn.Module) -> str:
    """What stands in front of the base model's own names of its modules, `base_model.model.` for a
    PeftModel.
    """
    base: Any = next(
        (m for m in model.modules() if isinstance(getattr(m, "peft_config", None), dict)), model
    )
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    return next(
        (f"{name}." if name else "" for name, module in model.named_modules() if module is base), ""
    )


def _adapters(layer: Any) -> list[str]:
    return [*layer.lora_A, *layer.lora_embedding_A]


def _of_parameter(layer: Any) -> bool:
    return hasattr(layer, "parameter_name")


def _check_initial(config: Any) -> None:
    """ValueError where PEFT has taken the initial B A out of the base weights: what it has learned
    cannot be told apart.
    """
    initial = getattr(config, "init_lora_weights", True)
    if isinstance(initial, str) and initial.lower().startswith(OUT_OF_THE_BASE):
        raise ValueError(
            f"init_lora_weights='{initial}' moves a part of the base weights into B A, which is"
            " then no update that a layer could share or do without: use plain LoRA"
            " (init_lora_weights=True)"
        )


def _checked(name: str, layer: Any, adapter: str) -> PeftLoRA:
    """ValueError where the layer's update is not s B A x."""
    refused = f"{name}, adapter '{adapter}': "
    if layer.use_dora.get(adapter):
        raise ValueError(
            refused
            + "DoRA rescales W + B A by a trained magnitude, so that its update is not B A x and"
            " has no norm of its own to rank layers by: use plain LoRA (use_dora=False)"
        )
    if adapter in layer.lora_variant:
        raise ValueError(
            f"{refused}its update is {type(layer.lora_variant[adapter]).__name__}'s, not B A x"
        )
    if layer.lora_bias.get(adapter):
        raise ValueError(refused + "its update has a bias (lora_bias=True), and is not B A x")
    base = layer.get_base_layer()
    # PEFT's layers on MultiheadAttention and on bare parameters are not called with the x that A
    # sees
    unusual = isinstance(base, nn.MultiheadAttention) or _of_parameter(layer)
    if unusual or adapter not in layer.lora_A or not isinstance(layer.lora_A[adapter], nn.Linear):
        raise ValueError(
            f"{refused}LoRA of a {type(base).__name__} cannot be measured, only that of linear"
            " modules"
        )
    return PeftLoRA(layer, adapter)
