"""`python -m simserve` is the command `simserve`."""

import sys

try:
    from simserve.cli.main import main

    code = main()
except KeyboardInterrupt:
    code = 130
sys.exit(code)
