"""Made models are kept between test runs, away from the user's own cache."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("SPECDRIFT_CACHE", str(Path(__file__).parents[1] / ".pytest_cache" / "specdrift"))
