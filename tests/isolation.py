"""The tests depend on nothing but the checkout: not on the user's settings, home, caches
or locale."""

from __future__ import annotations

import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

# settings of the user, which say what our code or a library does, where it looks and how it prints
SETTINGS = (
    "LORADROP_",
    "HYDRA_",
    "WANDB_",
    "HF_",
    "HUGGING",
    "TRANSFORMERS_",
    "TOKENIZERS_",
    "NLTK_",
    "MPL",
    "XDG_",
)
SETTINGS += (
    "GIT_",
    "SLURM_",
    "PL_",
    "LC_",
    "LANG",
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "FORCE_COLOR",
    "PYTHONWARNINGS",
    "NETRC",
)
# where the processes of a test session find the home that the first of them has made
TEMPORARY = "TESTS_HOME"
DATA_FOLDER = "TESTS_DATA"  # the user's LORADROP_DATA, for the tests of real data alone


def isolate() -> tempfile.TemporaryDirectory | None:
    """Make this process and its children independent of the user's settings, home, caches and
    locale.

    Must come before anything is imported that reads them. Returns the home's owner, None where a
    parent process is.
    """
    if "LORADROP_DATA" in os.environ:
        os.environ.setdefault(DATA_FOLDER, os.environ["LORADROP_DATA"])
    for name in list(os.environ):
        if name.startswith(SETTINGS) or name.lower().endswith("_proxy"):
            del os.environ[name]
    # as a shell's background job, or under nohup, the tests' processes would inherit that Ctrl-C is
    # ignored
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    owner = (
        None if TEMPORARY in os.environ else tempfile.TemporaryDirectory(prefix="loradrop-tests-")
    )
    if owner is not None:
        os.environ[TEMPORARY] = owner.name
    home = Path(os.environ[TEMPORARY], os.environ.get("PYTEST_XDIST_WORKER", "main"))
    home.mkdir(exist_ok=True)
    os.environ |= {"HOME": str(home), "HF_HOME": str(home / "huggingface")}
    os.environ |= {"LC_ALL": "C", "PYTHONUTF8": "1", "COLUMNS": "120"}
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # several processes with several threads each are slower than with one
    )
    return owner


HOME = isolate()
# official files; tests of real data are skipped without them
DATA = Path(os.environ.get(DATA_FOLDER, "/nonexistent"))

# Its first import configures logging, which closes the handlers there are. absl's handler, which
# rouge_score brings, would close the stream that pytest gave the test of that moment.
with suppress(ImportError):
    import submitit.core.logger  # noqa: F401
