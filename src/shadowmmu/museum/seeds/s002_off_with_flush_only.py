# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 repaired, but for roots that outlive paging.

id:      S002.off
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  5
base:    s002_repaired.py

The draft unloads all roots when CR0.PG is cleared; the review asks why it does not request a flush of the TLB as for SMEP. A
flush is not enough. It synchronises or frees what is unsync at that moment; but the guest goes on writing to its page tables
while paging is off, and a write makes the tables below a cached root unsync again. Setting CR0.PG takes that root from the cache
without any flush, and rightly so by the architecture: with paging off there is nothing to flush.

Fix: as in the draft, no root outlives paging.
"""


@replaces("vm.registers.post_set_cr0")
def post_set_cr0(vm, vcpu, old, new):
    """kvm_post_set_cr0."""
    if old ^ new == CR0_WP:
        if not new & CR0_PG:
            return
        if state.rules(vm).tdp_enabled:
            # only walks that KVM makes itself depend on it
            contexts.init_mmu(vm, vcpu)
            return
    if (old ^ new) & CR0_PG and not new & CR0_PG:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    if (old ^ new) & roles.CR0_ROLE_BITS:
        contexts.reset(vm, vcpu)
