# SPDX-License-Identifier: GPL-2.0-or-later
"""The paging modes as frozen data, for people and tables; the walkers take their numbers from here.

    32-bit   31    22 21    12 11       0      PDE (4 MiB with PSE), PTE: 4-byte entries
    PAE      31 30 29    21 20    12 11   0    PDPTE registers, PDE (2 MiB), PTE
    4-level  47    39 38    30 29    21 20    12 11   0    PML4E, PDPTE (1 GiB), PDE (2 MiB), PTE
    5-level  56    48 47 ...                    PML5E above it
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PagingMode:
    """One paging mode: root level, bytes of an entry, levels at which bit 7 can make a leaf, address bits."""

    name: str
    root_level: int
    entry_bytes: int
    large_levels: tuple
    address_bits: int
    nx: bool


NO_PAGING = PagingMode("no paging", 0, 0, (), 32, False)
BITS32 = PagingMode("32-bit", 2, 4, (2,), 32, False)
PAE = PagingMode("PAE", 3, 8, (2,), 32, True)
LEVEL4 = PagingMode("4-level", 4, 8, (2, 3), 48, True)
LEVEL5 = PagingMode("5-level", 5, 8, (2, 3), 57, True)
MODES = (NO_PAGING, BITS32, PAE, LEVEL4, LEVEL5)
