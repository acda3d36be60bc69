# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 001 with its companion patch 04.

id:      S001.with04
year:    2022
commits: -
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   -
length:  -
base:    s001_alone.py

Patches 04 and 05 together. "This ordering is wrong, no?" was the reviewer's question about clearing the bit before the page
is added to the vector. It is not: mmu_pages_add never refuses, its "true" means that the vector is full now, and callers must
process all that is in it even when the walk ends early. No search finds anything.

Fix: none needed.
"""


@replaces("mmu.unsync.pages_clear_parents")
def pages_clear_parents(vm, vector):
    """Gone with patch 04 of the series: the walk itself clears."""
    return
