"""`python -m loratrack.cli` is `loratrack`."""

import sys

from loratrack.cli import main

sys.exit(main())
