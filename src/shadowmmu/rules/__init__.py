# SPDX-License-Identifier: GPL-2.0-or-later
"""Behaviour by kernel version, as data.

`FIELDS` names every place where versions differ by a condition; `RULES` maps a name like "linux-6.12" to values.  A
version module lists what it changes against its predecessor, each with the upstream commit.
"""

from .. import state
from .fields import FIELDS
from .linux_6_1 import LINUX_6_1
from .linux_6_12 import LINUX_6_12, LINUX_6_12_0
from .linux_7_0 import LINUX_7_0
from .linux_7_2 import LINUX_7_2

state.define_rules({name: 1 for name in FIELDS})

RULES = {"linux-6.1": LINUX_6_1, "linux-6.12": LINUX_6_12, "linux-6.12.0": LINUX_6_12_0,
         "linux-7.0": LINUX_7_0, "linux-7.2": LINUX_7_2}
DEFAULT = "linux-6.12"


def load(vm_rules, values):
    """Copy `values` (field -> int) into a rules record."""
    for name in FIELDS:
        setattr(vm_rules, name, int(values[name]))
