"""`python -m simserve` is the command `simserve`."""

import sys

from simserve.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
