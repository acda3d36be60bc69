# SPDX-License-Identifier: GPL-2.0-or-later
"""The role of 7.2 without `cr4_smep`.

id:      R.cr4_smep
year:    -
commits: -
cve:     -
rules:   linux-7.2
change:  role_ignores=0x100000
breaks:  warning
needs:   -
length:  2

Linux 7.2 has CR4.SMEP itself in the role.

Fix: the bit is compared.
"""
