"""`python -m archgrad`: the command line, also for launchers such as torchrun."""

import sys

from archgrad.cli import main

if __name__ == "__main__":
    sys.exit(main())
