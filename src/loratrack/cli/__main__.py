"""`python -m loratrack.cli` is `loratrack`."""

import atexit
import os
import sys
from typing import NoReturn

from loratrack.cli import main


def script() -> NoReturn:
    """Run the command and end at once: taking torch apart would last another second, and help nobody."""
    exit_code = main()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # whoever read our lines may be gone
        os._exit(exit_code)


if __name__ == "__main__":
    script()
