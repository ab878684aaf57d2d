"""Lets these tests use the made-up repositories of `tests/unit/restore`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "restore"))
