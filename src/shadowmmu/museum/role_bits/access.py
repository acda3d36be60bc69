# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `access`.

id:      R.access
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0xf00
breaks:  translation
needs:   -
length:  2

See C1 and C2: a page is given to whoever asks for its gfn, whatever rights the levels above have.

Fix: the bit is compared.
"""
