"""Share: layers that keep no LoRA of their own use one common LoRA of their module type, or none.

This is Section 3 of LoRA-drop. Sharing means the same `Parameter` objects, so optimisers, data
parallelism and counting see one LoRA. Query and value have one shared LoRA each (Appendix A.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from loradrop.lora.bare import note_without_lora, without_lora
from loradrop.lora.inject import remove_lora
from loradrop.lora.layer import LoRALinear
from loradrop.lora.peft import LoRA, adapted_sites, check_removable, remove_adapter
from loradrop.lora.peft_layer import PeftLoRA
from loradrop.lora.wrappers import unwrap, unwrap_to_change
from loradrop.plan import Key, SharingPlan

SHARED_INIT = ("first", "mean")


def share(
    model: nn.Module, plan: SharingPlan, shared_init: str = "first", adapter: str | None = None
) -> None:
    """Carry out a plan on a model that holds plain LoRA in the plan's layers, in place (Section 3).

    Make optimisers, and wrap the model in DistributedDataParallel, afterwards. A plan that was
    carried out already changes nothing, and one that is refused leaves the model as it was. Each
    layer keeps its own scaling s in s B A (PEFT's alpha_pattern), as it does in the files. With a
    plan that does not share, the target modules of a PEFT adapter's config change, so that PEFT
    saves and loads what is left. Save a model whose adapters transformers has added
    (model.add_adapter) by loradrop.save_pretrained: transformers refuses shared tensors.

    Args:
        model: A model that add_lora has adapted, or a PEFT model. torch.compile, DataParallel and
            Lightning are seen through.
        plan: What select returns.
        shared_init: The initial value of a shared LoRA: the `first` (lowest) of its layers' A and
            B, or the `mean` of their A's and of their B's.
        adapter: Which adapter of a PEFT model; None: the active one.

    Raises:
        TypeError: `model` is not a module, or `plan` is not a SharingPlan.
        ValueError: A plan for other module types or layers than the model's; LoRAs of different
            shapes, types or devices that are to share; layers that share already and are not to; a
            model in DistributedDataParallel, sharded or merged; a kind of LoRA whose update is not
            B A x (DoRA).
    """
    if shared_init not in SHARED_INIT:
        raise ValueError(
            f"shared_init must be one of {', '.join(SHARED_INIT)}, got '{shared_init}'"
        )
    if not isinstance(plan, SharingPlan):
        raise TypeError(
            f"share needs a SharingPlan, as select returns it, got {type(plan).__name__}"
        )
    _share(unwrap_to_change(model, "share"), plan, shared_init, adapter)


def share_after_training(
    model: nn.Module, plan: SharingPlan, shared_init: str = "first", adapter: str | None = None
) -> None:
    """As `share`, also on a model in a DistributedDataParallel that will train no more."""
    _share(unwrap(model), plan, shared_init, adapter)


def _share(model: nn.Module, plan: SharingPlan, shared_init: str, adapter: str | None) -> None:
    sites = {
        (site.module_type, site.layer): (site.name, lora)
        for site, lora in adapted_sites(model, adapter).items()
    }
    for name, lora in sites.values():
        if isinstance(lora, PeftLoRA) and lora.adapter in lora.layer.merged_adapters:
            raise ValueError(
                f"{name}: adapter '{lora.adapter}' is merged into the weights; unmerge it first"
            )
    others = _check_keys(plan, set(sites), "model")
    _check_apart({key: lora for key, (_, lora) in sites.items()}, others)
    if not plan.share and others.isdisjoint(sites):  # carried out already, or loaded without them
        note_without_lora(model, adapter, others, plan.lora_parameters)
        return
    groups = {
        kind: [sites[kind, layer] for layer in layers]
        for kind, layers in plan.others.items()
        if layers
    }
    if plan.share:
        for kind, group in groups.items():
            _check_alike(kind, [lora for _, lora in group])
        for group in groups.values():
            _tie([lora for _, lora in group], shared_init)
    else:
        _remove(model, [one for group in groups.values() for one in group])


def check_can_share(model: nn.Module, plan: SharingPlan, adapter: str | None = None) -> None:
    """Check before training that share will accept the LoRAs, whichever layers the plan will keep.

    Args:
        model: As for share.
        plan: One that shares, or does not, as the later plan will.
        adapter: As for share.

    Raises:
        ValueError: LoRAs of a module type that differ in shape, type or device, if they are to
            share; LoRAs that cannot be removed, if they are not.
    """
    groups: dict[str, list[LoRA]] = {}
    for site, lora in adapted_sites(model, adapter).items():
        groups.setdefault(site.module_type, []).append(lora)
    for kind, loras in groups.items():
        if plan.share:
            _check_alike(kind, loras)
        elif isinstance(loras[0], PeftLoRA):
            check_removable(model, loras[0].adapter)


def check_stored_plan(plan: SharingPlan, matrices: Mapping[Key, tuple[Tensor, Tensor]]) -> None:
    """Check that a plan describes an adapter's stored tensors, before they are put into a model.

    Args:
        plan: The plan beside the adapter.
        matrices: A and B by module type and layer.

    Raises:
        ValueError: The plan is for other layers, or layers that it lets share have different
            values.
    """
    remedy = "delete plan.json if it belongs to another adapter"
    try:
        _check_keys(plan, set(matrices), "adapter")
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from error
    for kind, layers in plan.others.items() if plan.share else ():
        first, *rest = (matrices[kind, layer] for layer in layers) if layers else [()]
        if any(not torch.equal(a, b) for pair in rest for a, b in zip(first, pair, strict=True)):
            raise ValueError(
                f"the plan shares layers of {kind}, but their stored A's and B's differ; {remedy}"
            )


def plan_of(model: nn.Module, adapter: str | None = None) -> SharingPlan:
    """Read a model's plan from its parameters: which layers share A and B, and which have none.

    A layer whose A and B no other layer uses counts as one that keeps its own. If nothing is shared
    and layers have lost their LoRA (share, remove_lora), it is a plan without sharing.

    Args:
        model: A model with LoRA; wrappers are seen through.
        adapter: Which adapter of a PEFT model; None: the active one.

    Returns:
        The plan. `never_adapted` names the layers of its module types that LoRA was never put into,
        as far as the model tells: PEFT's own files do not say what was dropped. A module type that
        has lost all its LoRA is missing after loading if other modules have its name as well.

    Raises:
        TypeError: `model` is not a module.
        ValueError: As for share; and sharing that is no plan's: between module types, or several
            groups in one.
    """
    model = unwrap(model)
    sites = adapted_sites(model, adapter)
    shared = _sharing({(site.module_type, site.layer): lora for site, lora in sites.items()})
    if any(len({kind for kind, _ in keys}) > 1 for keys in shared) or len(
        {keys[0][0] for keys in shared}
    ) < len(shared):
        raise ValueError("no plan shares LoRAs in the way that this model does")
    present = {(site.module_type, site.layer): lora.size for site, lora in sites.items()}
    dropped, never = without_lora(model, sites)
    without = {} if shared else dropped
    sizes = present | without
    kinds = dict.fromkeys(kind for kind, _ in sizes)
    others = {key for keys in shared for key in keys} or set(without)
    kept, rest = (
        {
            kind: tuple(sorted(i for k, i in sizes if k == kind and ((k, i) in others) == other))
            for kind in kinds
        }
        for other in (False, True)
    )
    own = sum(size for key, size in present.items() if key not in others)
    parameters = own + sum(present[keys[0]] for keys in shared)
    missing = {kind: tuple(sorted(i for k, i in never if k == kind)) for kind in kinds}
    missing = {kind: layers for kind, layers in missing.items() if layers}
    return SharingPlan(kept, rest, not without, sum(sizes.values()), parameters, missing)


def _remove(model: nn.Module, found: Sequence[tuple[str, LoRA]]) -> None:
    peft = [(name, lora.adapter) for name, lora in found if isinstance(lora, PeftLoRA)]
    if peft:
        remove_adapter(model, [name for name, _ in peft], peft[0][1])
    else:
        remove_lora(model, [name for name, _ in found])


def _sharing(loras: Mapping[Key, LoRA]) -> list[list[Key]]:
    """The groups of layers that use the same A."""
    users: dict[int, list[Key]] = {}
    for key, lora in loras.items():
        users.setdefault(id(lora.lora_A), []).append(key)
    return [keys for keys in users.values() if len(keys) > 1]


def _check_apart(loras: Mapping[Key, LoRA], others: set[Key]) -> None:
    """Raise ValueError if layers that share already would have to get LoRAs of their own."""
    for keys in _sharing(loras):
        if len({kind for kind, _ in keys}) > 1 or not others.issuperset(keys):
            shown = ", ".join(f"{kind} {layer}" for kind, layer in keys)
            raise ValueError(
                f"{shown} share a LoRA already, and the plan would separate them: start from a"
                " model with plain LoRA"
            )


def _check_alike(kind: str, loras: Sequence[LoRA]) -> None:
    """Raise ValueError if the LoRAs cannot use the same A and B."""
    for tensors in ([lora.lora_A for lora in loras], [lora.lora_B for lora in loras]):
        if len({tensor.shape for tensor in tensors}) > 1:
            raise ValueError(
                f"{kind}: LoRAs of different shapes cannot be shared:"
                f" {[tuple(t.shape) for t in tensors]}"
            )
        places = {f"{tensor.dtype} on {tensor.device}" for tensor in tensors}
        if len(places) > 1:
            raise ValueError(
                f"{kind}: LoRAs of different types or devices cannot be shared:"
                f" {', '.join(sorted(places))}"
            )


def _tie(loras: Sequence[LoRA], shared_init: str) -> None:
    """Make all of them use the first one's A and B."""
    first = loras[0]
    if all(lora.lora_A is first.lora_A for lora in loras):
        return  # a mean of equal values may differ from them by rounding
    if shared_init == "mean":
        with torch.no_grad():
            first.lora_A.copy_(torch.stack([lora.lora_A for lora in loras]).mean(0))
            first.lora_B.copy_(torch.stack([lora.lora_B for lora in loras]).mean(0))
    for lora in loras[1:]:
        lora.lora_A, lora.lora_B = first.lora_A, first.lora_B
        if isinstance(lora, LoRALinear):
            lora._tied_weights_keys = {"lora_A": "lora_A", "lora_B": "lora_B"}


def _check_keys(plan: SharingPlan, present: set[Key], what: str) -> set[Key]:
    """Return the layers that will share or lose their LoRA.

    Raises:
        ValueError: The plan is for other layers than those of the model or adapter.
    """
    kept, others = (
        {(kind, i) for kind, layers in part.items() for i in layers}
        for part in (plan.kept, plan.others)
    )
    if kept & others:
        kind, layer = sorted(kept & others)[0]
        raise ValueError(
            f"the plan contradicts itself: {kind} {layer} is to keep its own LoRA and not to"
            " keep it"
        )
    if kept | others != present and (plan.share or kept != present):
        raise ValueError(
            f"the plan does not fit the {what}: {_difference(kept | others, present, what)}"
        )
    return others


def _difference(planned: set[Key], present: set[Key], what: str) -> str:
    parts = []
    for text, keys in (
        ("only in the plan", planned - present),
        (f"only in the {what}", present - planned),
    ):
        if keys:
            shown = ", ".join(f"{kind} {layer}" for kind, layer in sorted(keys)[:6])
            parts.append(f"{text}: {shown}{', ...' if len(keys) > 6 else ''}")
    return "; ".join(parts)
