# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `ad_disabled`.

id:      R.ad_disabled
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x10000
breaks:  warning
needs:   nested guest
length:  3

Tables of an EPT without A and D bits and of one with them are used in different ways: the walk marks entries, and a clean
entry is shadowed as read-only, only where there are such bits. An L1 may have both for the same table: the bit stands in the
EPTP.

Fix: the bit.
"""
