# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `passthrough`.

id:      R.passthrough
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x40000
breaks:  translation
needs:   nested guest
length:  4

A page that stands above the root of a table with fewer levels shadows nothing: its first entry leads to the page that does.
Without the bit it has the role of a shadow of a table of its own level at the same gfn (see C14).

Fix: the bit.
"""
