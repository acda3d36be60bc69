# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `smep_andnot_wp`.

id:      R.smep_andnot_wp
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x200000
breaks:  warning
needs:   -
length:  3

See C5.

Fix: the bit is compared.
"""
