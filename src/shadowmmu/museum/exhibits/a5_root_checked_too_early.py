# SPDX-License-Identifier: GPL-2.0-or-later
"""The root in use is checked before pages are made available, which may zap it.

id:      A5
year:    2026
commits: -
cve:     CVE-2026-64561
rules:   linux-7.2
change:  stale_check_after_reclaim=0
breaks:  warning
needs:   nested guest
length:  7

A fault looks whether its root is still good, and then makes shadow pages available. Reclaim passes roots over, but its zap of
another page takes nested tables that lose their last parent along, roots or not (A6). The fault went on in an invalid root: its
children inherit role.invalid and stand on the active list all the same.

Fix: pages first, then the check.
"""


@replaces("mmu.zap.is_orphan")
def is_orphan(vm, sp):
    """Of L1's nested tables, and without a parent: A6, without which reclaim does not reach a root."""
    return state.rules(vm).tdp_enabled != 0 and sp.role & roles.GUEST_MODE != 0 and sp.parent_ptes == 0
