# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the two storages this process uses, and what both need."""

import os
from typing import Protocol

#: True: compiled (`native`).  False (`SHADOWMMU_JIT=0`): interpreted.
JIT = os.environ.get("SHADOWMMU_JIT", "1") != "0"


class Array(Protocol):
    """Annotation of an entry point's parameter: a table of 64-bit words from outside (numpy, array, ctypes)."""

    def __getitem__(self, index: int) -> int: ...

    def __setitem__(self, index: int, value: int) -> None: ...

    def __len__(self) -> int: ...
