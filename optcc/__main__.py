"""`python -m optcc`: the same as the `optcc` command."""

import sys

from optcc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
