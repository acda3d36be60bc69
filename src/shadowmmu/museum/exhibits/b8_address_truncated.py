# SPDX-License-Identifier: GPL-2.0-or-later
"""A 32-bit host truncates the address to invalidate.

id:      B8
year:    2023
commits: 753b43c9d1b7
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   nested guest
length:  3

The address to invalidate was a gva_t, an unsigned long. Since EPT violations that KVM tells L1 invalidate a guest-physical
address of L2 in the shadow of L1's EPT, it may have more bits than that on a 32-bit host: another page was synchronised, and
the entry that had caused the violation stayed as it was. The host here has 64 bits; only the width of gva_t is a 32-bit
host's, which, as on a real one, are as many as two levels of tables translate.

Fix: u64.
"""


@replaces("mmu.walk.invalidate_addr")
def invalidate_addr(vm, vcpu, mmu, addr, which):
    """kvm_mmu_invalidate_gva, whose address is a gva_t."""
    addr &= (1 << vm.page_shift + 2 * vm.level_bits) - 1
    ctx = state.context(vm, mmu)
    if ctx.id != nested.GUEST_MMU:
        if is_noncanonical(vm, vcpu, addr):
            return
        flush.tlb_gva(vcpu, addr)
    if ctx.root_role & roles.DIRECT or ctx.id == nested.NESTED_MMU:
        return
    if which & roots.CURRENT:
        invalidate_addr_in_root(vm, vcpu, mmu, addr, ctx.root_hpa)
    for i in range(3):
        if which & roots.previous(i):
            invalidate_addr_in_root(vm, vcpu, mmu, addr, ctx.prev_hpa[i])
