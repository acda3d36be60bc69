# SPDX-License-Identifier: GPL-2.0-or-later
"""A counter of write protections is held for corrupt when it is not.

id:      E10
year:    2008
commits: 93df766322ba
cve:     -
rules:   linux-6.12
change:  -
breaks:  warning
needs:   -
length:  1

Each shadowed table forbids large mappings of the range around it once. A warning fired when the count exceeded the number of
pages in that range, on the assumption of one shadow page a gfn. A 32-bit guest's page directory has four shadow pages, a page
table two.

Fix: the warning went.
"""


@replaces("mmu.tracking.update_disallow_lpage")
def update_disallow_lpage(vm, i, gfn, change):
    """update_gfn_disallow_lpage_count at 2M and 1G."""
    two = memslots.large_meta2(vm, i, gfn)
    two.disallow_lpage += change
    if two.disallow_lpage > 1 << vm.level_bits:
        warn.warn(vm, 43)
    one = memslots.large_meta3(vm, i, gfn)
    one.disallow_lpage += change
    if two.disallow_lpage < 0 or one.disallow_lpage < 0:
        warn.warn(vm, 16)
