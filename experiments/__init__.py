import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it warns of a kernel that no run needs
