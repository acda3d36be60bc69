# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `cr0_wp`.

id:      R.cr0_wp
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x4000
breaks:  warning
needs:   -
length:  2

See C4.

Fix: the bit is compared.
"""
