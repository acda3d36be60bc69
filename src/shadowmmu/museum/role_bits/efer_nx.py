# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `efer_nx`.

id:      R.efer_nx
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x2000
breaks:  nothing
needs:   -
length:  -

Shadow paging sets the bit in every role (112022bdb5bc), so there are no two pages that differ in it. What that costs is the
deviation nx-role.

Fix: none needed.
"""
