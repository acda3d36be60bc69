# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `smap_andnot_wp`.

id:      R.smap_andnot_wp
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x8000
breaks:  warning
needs:   -
length:  3

See C6.

Fix: the bit is compared.
"""
