import logging
import sys

logging.getLogger("bitsandbytes").setLevel(
    logging.ERROR
)  # on import it warns of a kernel that no run needs

if (
    sys.argv[0] == "-m"
):  # `python -m experiments.<command>` is about to start, with seconds of imports
    from experiments.common import interrupts

    interrupts.install()
