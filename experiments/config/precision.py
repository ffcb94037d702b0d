"""What `trainer.precision=auto` stands for on this machine. Free of torch, as long as no GPU is asked about.

A config keeps no `auto`: what it stands for takes its place before the run's id is computed. So the id covers what is
computed, and equals that of a config that names the precision outright; on another machine `auto` may be another run.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from experiments.config.schema import UserError

AUTO = "auto"
CPUINFO = Path("/proc/cpuinfo")
UNITS = ("amx_bf16", "avx512_bf16")  # as Linux names them; without them bf16 is emulated, and slower than float32


def resolve_precision(config: DictConfig) -> str | None:
    """Replace `trainer.precision=auto`, in place, by bf16-mixed where the hardware computes in bf16, else by 32-true.

    float16 is never taken: it needs its loss scaled, which should be asked for by name.

    Args:
        config: a composed run.

    Returns:
        A line that says what was taken and why; None where the config names a precision.

    Raises:
        UserError: the run is for a GPU, and this machine shows none.
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
    """The CPU's units for bf16, of AMX and AVX-512; empty where the system does not list them."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # macOS
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [unit for unit in UNITS if unit in flags]


def _gpu_units() -> list[str]:
    import torch  # seconds that no other config costs

    if not torch.cuda.is_available():
        raise UserError(
            "trainer.precision=auto depends on the GPU, and torch sees none here: name what the runs have, "
            "trainer.precision=bf16-mixed or 32-true"
        )
    return ["tensor cores"] if torch.cuda.is_bf16_supported(including_emulation=False) else []
