# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 repaired, without a flush when paging is switched off.

id:      S002.pg
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  3
base:    s002_repaired.py

The reviewer's second point: clearing CR0.PG empties the TLB. With roots that survive the change of role, an unsync page below
a cached root is out of date when the guest switches paging on again and loads that root without a flush.

Fix: a flush of the guest's TLB, which frees cached roots that are unsync.
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
    if (old ^ new) & roles.CR0_ROLE_BITS:
        contexts.reset(vm, vcpu)
