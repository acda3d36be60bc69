# SPDX-License-Identifier: GPL-2.0-or-later
"""The MMIO cache of a vCPU outlives the memslots it was made under.

id:      D11
year:    2014
commits: 56f17dd3fbc4
cve:     -
rules:   linux-6.12
change:  -
breaks:  not-mmio
needs:   host
length:  3

The cache of the last address without memory was cleared only by flushes. When userspace put memory there, the guest went on
getting the device.

Fix: the cache carries the generation of the memslots and counts for that one only.
"""


@replaces("mmu.mmio.match_gen")
def match_gen(vm, vcpu):
    """Before 56f17dd3fbc4: what was cached is good."""
    return True
