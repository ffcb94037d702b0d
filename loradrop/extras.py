"""Packages that only an extra of loradrop brings: where one is missing, the message names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import optional packages inside the block.

    Args:
        name: The extra that brings them, as in pyproject.toml.

    Raises:
        ModuleNotFoundError: One is missing. The message says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise _missing(str(error.name).partition(".")[0], name) from error


def require(name: str, *packages: str) -> None:
    """Check that optional packages are installed, without importing them.

    Args:
        name: The extra that brings them, as in pyproject.toml.
        packages: Their names in Python.

    Raises:
        ModuleNotFoundError: One is missing. The message says what to install.
    """
    for package in packages:
        if find_spec(package) is None:
            raise _missing(package, name)


def _missing(package: str, name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{package} is missing: pip install 'loradrop[{name}]'", name=package
    )
