# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `level`.

id:      R.level
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0xf
breaks:  warning
needs:   -
length:  1

The same guest page may be used as tables of different levels (a recursive mapping does). Without the level in the key one
shadow serves for both.

Fix: the bit is compared.
"""
