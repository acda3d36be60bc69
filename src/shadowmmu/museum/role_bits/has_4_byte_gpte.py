# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `has_4_byte_gpte`.

id:      R.has_4_byte_gpte
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x10
breaks:  translation
needs:   -
length:  3

A guest page read as 4-byte entries and as 8-byte entries has two different shadows. The change between the two needs CR4.PAE
and then a MOV CR3.

Fix: the bit is compared.
"""
