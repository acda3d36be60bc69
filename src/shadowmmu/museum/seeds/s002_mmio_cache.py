# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 keeps the per-vCPU MMIO cache over a change of role.

id:      S002.mmio
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  not-mmio
needs:   -
length:  4
base:    s002_off_with_flush_only.py

Unloading the roots also empties the cache of the last address without memory, which is kept by linear address. Without the
unloading it survives CR0.PG going to 0: the same number is a physical address then, and an access to memory there is emulated
as MMIO. Nobody named it in the review; the search did. S002.off without that line (S002.repaired unloads there, which empties the
cache, too).

Fix: the cache is emptied at every change of role.
"""


@replaces("mmu.contexts.reset")
def reset(vm, vcpu):
    """Roots of the new role may be in the cache; what the hardware holds was made for the old role."""
    init_mmu(vm, vcpu)
    roots.new_pgd(vm, vcpu, nested.guest_pgd(vcpu, state.context(vm, vcpu.mmu)))
    vcpu.requests |= 16     # KVM_REQ_TLB_FLUSH_CURRENT
