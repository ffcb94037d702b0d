import logging
import sys

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about an unused kernel

if sys.argv[0] == "-m":  # `python -m experiments.<command>`: imports take seconds
    from experiments.common import interrupts

    interrupts.install()
