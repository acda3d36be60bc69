# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `quadrant`.

id:      R.quadrant
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x60
breaks:  translation
needs:   -
length:  1

See S004.quadrant; here the pages have a quadrant, and the lookup does not compare it.

Fix: the bit is compared.
"""
