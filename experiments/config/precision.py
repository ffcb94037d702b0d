"""Resolve `trainer.precision=auto` for this machine. Imports torch only to ask about a GPU.

`auto` is replaced before the run's id is computed. So the id covers the precision that is used, and
equals that of a config that names it; on another machine `auto` may be another run.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from experiments.config.schema import UserError

AUTO = "auto"
CPUINFO = Path("/proc/cpuinfo")
# As Linux names them. Without these units bf16 is emulated, and slower than float32.
UNITS = ("amx_bf16", "avx512_bf16")


def resolve_precision(config: DictConfig) -> str | None:
    """Replace `trainer.precision=auto` in place: bf16-mixed if the hardware has bf16, else 32-true.

    float16 is never chosen: it needs loss scaling, which should be an explicit choice.

    Args:
        config: A composed run.

    Returns:
        What was chosen and why, in one line; None if the config names a precision.

    Raises:
        UserError: If the run needs a GPU and torch sees none.
    """
    settings = config.trainer
    if settings.precision != AUTO:
        return None
    units = _gpu_units() if settings.accelerator == "gpu" else cpu_units()
    settings.precision = "bf16-mixed" if units else "32-true"
    name = settings.accelerator.upper()
    why = f"has bf16 units ({', '.join(units)})" if units else "shows no bf16 units"
    return f"trainer.precision=auto: {settings.precision}, because this {name} {why}"


def cpu_units() -> list[str]:
    """The CPU's units for bf16 (AMX, AVX-512); empty if the system does not list them."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # macOS
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [unit for unit in UNITS if unit in flags]


def _gpu_units() -> list[str]:
    import torch  # imported late: it takes seconds that other configs do not need

    if not torch.cuda.is_available():
        raise UserError(
            "trainer.precision=auto depends on the GPU, and torch sees none here: "
            "name the precision of the runs, trainer.precision=bf16-mixed or 32-true"
        )
    return ["tensor cores"] if torch.cuda.is_bf16_supported(including_emulation=False) else []
