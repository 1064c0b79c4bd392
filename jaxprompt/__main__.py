"""``python -m jaxprompt``."""

from __future__ import annotations

import sys

from jaxprompt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
