# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes `recorded` importable from the test files of this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
