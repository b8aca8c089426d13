"""`python -m whatchanged` is the command `whatchanged`."""

from __future__ import annotations

import sys

from whatchanged.cli import main

sys.exit(main())
