# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo hypervisor: a guest that runs guests, with its own shadow paging and with nested paging.

    HYPERVISOR      L1; runs both guests, twice where it has nested paging
    GUESTS          the guests, which run alone, too
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
HYPERVISOR = _HERE / "hv.cfg"
GUESTS = {"64": _HERE / "l2_64.cfg", "pae": _HERE / "l2_pae.cfg"}
#: Where L2's memory lies in L1's, and its size.
L2_BASE, L2_SIZE = 8 << 20, 4 << 20
