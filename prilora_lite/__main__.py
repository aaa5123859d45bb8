"""``python -m prilora_lite``: the command line, for launchers such as torchrun that start modules."""

import sys

from prilora_lite.cli import main

if __name__ == "__main__":
    sys.exit(main())
