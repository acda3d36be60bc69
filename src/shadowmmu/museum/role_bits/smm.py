# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `smm`.

id:      R.smm
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0xff000000
breaks:  translation
needs:   SMM
length:  2

System management mode has memslots of its own, so a guest table can lie in other memory there.

Fix: the bit is compared.
"""
