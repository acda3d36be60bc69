# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the two storages this process uses."""

import os

#: True: compiled by numba.  False (`SHADOWMMU_JIT=0`): interpreted.
JIT = os.environ.get("SHADOWMMU_JIT", "1") != "0"
