"""`python -m vidlab.cli`: the command line, where the script `vidlab` is not on the path."""

import sys

from . import main

sys.exit(main())
