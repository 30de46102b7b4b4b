"""`python -m batchrunner.simulator` is the server of `batchrun simulate`."""

from __future__ import annotations

import sys

from batchrunner.simulator.main import main

sys.exit(main())
