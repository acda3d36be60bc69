# SPDX-License-Identifier: GPL-2.0-or-later
"""A nested table that is also a root is zapped with its last parent.

id:      A6
year:    2026
commits: 7a2c70e777a0
cve:     -
rules:   linux-7.2
change:  -
breaks:  warning
needs:   nested guest
length:  6

A shadow page of L1's nested tables that loses its last parent is zapped at once, for it is hardly used again. That it may be a
root as
well (a five-level EPT whose child is the root of a four-level one) was not looked at: the root that a vCPU runs on became
invalid.
By itself that costs a new root; together with the check of A5 in the wrong place it is a use after free.

Fix: a page with root_count is kept.
"""


@replaces("mmu.zap.is_orphan")
def is_orphan(vm, sp):
    """Of L1's nested tables, and without a parent."""
    return state.rules(vm).tdp_enabled != 0 and sp.role & roles.GUEST_MODE != 0 and sp.parent_ptes == 0
