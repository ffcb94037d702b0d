"""PEFT's LoRA layers with the interface of a LoRALinear.

PEFT computes h = W x + s B A x with s = alpha / r, or alpha / sqrt(r) for rsLoRA, from a `lora_A`
and a `lora_B` for every adapter's name.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# initial values that change the base weights: the beginnings of PEFT's names for them
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
        """The number of values in A and B, whether they are shared or not."""
        return self.lora_A.numel() + self.lora_B.numel()

    def down(self, x: Tensor) -> Tensor:
        """A x in float32: (..., d_in) -> (..., r)."""
        return x.float() @ self.lora_A.float().T

    def up(self, z: Tensor) -> Tensor:
        """B z in float32: (..., r) -> (..., d_out)."""
        return z.float() @ self.lora_B.float().T

    def register_forward_pre_hook(self, hook: Any, with_kwargs: bool = False) -> RemovableHandle:
        return self.layer.register_forward_pre_hook(hook, with_kwargs=with_kwargs)


def is_of_parameter(layer: Any) -> bool:
    return hasattr(layer, "parameter_name")


def check_initial(config: Any) -> None:
    """Raise ValueError if PEFT has moved a part of the base weights into the initial B A.

    What training has added to it could not be told apart.
    """
    initial = getattr(config, "init_lora_weights", True)
    if isinstance(initial, str) and initial.lower().startswith(OUT_OF_THE_BASE):
        raise ValueError(
            f"init_lora_weights='{initial}' moves a part of the base weights into B A, which is"
            " then no update that a layer could share or do without: use plain LoRA"
            " (init_lora_weights=True)"
        )


def plain_lora(name: str, layer: Any, adapter: str) -> PeftLoRA:
    """Return an adapter of a layer. Raise ValueError if its update is not s B A x."""
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
    unusual = isinstance(base, nn.MultiheadAttention) or is_of_parameter(layer)
    if unusual or adapter not in layer.lora_A or not isinstance(layer.lora_A[adapter], nn.Linear):
        raise ValueError(
            f"{refused}LoRA of a {type(base).__name__} cannot be measured, only that of linear"
            " modules"
        )
    return PeftLoRA(layer, adapter)
