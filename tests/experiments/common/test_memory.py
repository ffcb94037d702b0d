"""Peak memory counts from the last reset."""

import sys

import pytest

from experiments.common.memory import peak_memory, reset_peak_memory

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot reset the peak")
def test_the_peak_is_that_since_the_last_reset() -> None:
    reset_peak_memory()
    start = peak_memory()
    large = bytearray(200 * MIB)
    large[::4096] = b"x" * len(large[::4096])
    assert peak_memory() - start > 150 * MIB
    del large
    reset_peak_memory()
    assert peak_memory() - start < 100 * MIB
