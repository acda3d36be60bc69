# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's page size decides, even if a smaller mapping was asked for.

id:      E7
year:    2020
commits: 22b1d57b032c
cve:     -
rules:   linux-6.12
change:  -
breaks:  livelock
needs:   large host pages
length:  1

The level of a mapping is the largest that the memslot permits: no larger than to leave guest page tables out. For hugetlb
memory the size of the host's page came back instead, so that 1G could be mapped where only 2M were permitted, with page
tables inside, which the guest then writes unseen.

Fix: the smaller of the two counts.
"""


@replaces("mmu.faults.max_mapping_level")
def max_mapping_level(vm, slot, gfn, max_level):
    """kvm_mmu_max_mapping_level."""
    level = min(max_level, state.rules(vm).max_huge_page_level)
    while level > 1 and tracking.forbids_large(vm, slot, gfn, level):
        level -= 1
    if level == 1:
        return 1
    return host.mapping_level(vm, slot, gfn)
