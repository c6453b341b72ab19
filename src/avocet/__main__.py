"""`python -m avocet`: the command line, where the `avocet` script is not on the path."""

import sys

from avocet.cli import main

sys.exit(main())
