# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `guest_mode`.

id:      R.guest_mode
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x20000
breaks:  warning
needs:   nested guest
length:  2

A page that was made for L2 is a page for L2 only. With two-dimensional paging a shadow of L1's nested tables and one of L1's
own tables have other formats and rights, with shadow paging L1 and L2 could share; that they do not is what lets a root of L2
be told from one of L1 (VM entry and exit without a flush).

Fix: the bit.
"""
