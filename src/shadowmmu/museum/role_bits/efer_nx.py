# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `efer_nx`.

id:      R.efer_nx
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x2000
breaks:  translation
needs:   nested guest
length:  5

Shadow paging sets the bit in every role (112022bdb5bc), so there are no two pages of it that differ in it; what that costs is the
deviation nx-role. L1's nested tables are shadowed under L1's own EFER.NXE: where two vCPUs of L1 have different ones, the same
table has a reserved bit 63 for one and a right for the other, and the pages must be two.

Fix: the bit is compared.
"""
