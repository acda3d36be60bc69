# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the two storages this process uses, and what both need."""

import os

#: True: compiled by numba.  False (`SHADOWMMU_JIT=0`): interpreted.
JIT = os.environ.get("SHADOWMMU_JIT", "1") != "0"

#: Annotation of an entry point's parameter: a table of 64-bit words from outside (numpy, array, ctypes), not an integer.
Array = "Array"
