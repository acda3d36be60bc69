# SPDX-License-Identifier: GPL-2.0-or-later
"""New PDPTEs are loaded and the root built from the old ones stays.

id:      C19
year:    2022
commits: 6b123c3a89a9
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  2

A PAE guest's four top entries are loaded into the CPU by MOV CR3 and used from there. KVM builds a root from them. Reloading
CR3 with the same value after a change in memory loads other entries; the root, looked up by CR3, was still the old one.

Fix: a change of the loaded entries frees the current root.
"""


@replaces("vm.registers.load_pdptrs")
def load_pdptrs(vm, vcpu, cr3):
    """load_pdptrs: False when an entry is not valid.  Changed entries mean a new root (6b123c3a89a9)."""
    ctx = state.context(vm, vcpu.walk_mmu)
    gfn = geometry.entry_frame(cr3)
    if ctx.id == nested.NESTED_MMU:
        real = nested.translate_gpa(vm, vcpu, gfn << vm.page_shift, PFERR_USER | PFERR_WRITE)
        if real == walk.INVALID_GPA:
            return False
        gfn = real >> vm.page_shift
    i = memslots.vcpu_gfn_to_memslot(vm, vcpu, gfn)
    if not memslots.is_visible(vm, i):
        return False
    frame = host.fault_in(vm, memslots.gfn_to_hva(vm, i, gfn)) - vm.ram_pfn
    # 32-byte aligned in the page
    offset = cr3 & ((1 << vm.page_shift) - 1) & ~31
    reserved = contexts.rsvd_bits(vcpu.maxphyaddr, 63) | contexts.rsvd_bits(5, 8) | contexts.rsvd_bits(1, 2)
    if vcpu.pdpte_accessed_allowed:
        reserved &= ~PT_ACCESSED
    changed = False
    for k in range(4):
        pdpte = host.read_entry(vm, frame, offset + 8 * k, 8)
        if pdpte & PT_PRESENT and pdpte & reserved:
            return False
        if pdpte != ctx.pdptrs[k]:
            changed = True
    for k in range(4):
        ctx.pdptrs[k] = host.read_entry(vm, frame, offset + 8 * k, 8)
    vcpu.requests |= flush.REQ_LOAD_MMU_PGD
    return True
