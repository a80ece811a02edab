"""`python -m simtoreal`."""

import sys

from simtoreal.cli import main

if __name__ == "__main__":
    sys.exit(main())
