"""Run the command line with ``python -m loractl``."""

import sys

from loractl.cli import main

if __name__ == "__main__":
    sys.exit(main())
