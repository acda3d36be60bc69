# SPDX-License-Identifier: GPL-2.0-or-later
"""Bit 63 of a MOV CR3 is swallowed although PCIDs are off.

id:      B6
year:    2018
commits: c19986fea873
cve:     -
rules:   linux-6.12
change:  -
breaks:  not-refused
needs:   -
length:  1

Bit 63 of the operand means "do not flush" while CR4.PCIDE is set and is reserved otherwise: the instruction must raise #GP.
KVM masked the bit before looking at CR4.

Fix: the bit is taken off only with CR4.PCIDE=1.
"""


@replaces("vm.registers.set_cr3")
def set_cr3(vm, vcpu, value):
    """kvm_set_cr3."""
    noflush = False
    pcid = 0
    noflush = value < 0
    value &= (1 << 63) - 1
    if vcpu.cr4 & CR4_PCIDE:
        pcid = value & CR3_PCID_MASK
    if value != vcpu.cr3 or is_pae_paging(vcpu):
        if not is_legal_cr3(vcpu, value):
            return True
        if is_pae_paging(vcpu) and not load_pdptrs(vm, vcpu, value):
            return True
        if value != vcpu.cr3:
            roots.new_pgd(vm, vcpu, value)
        vcpu.cr3 = value
    if not noflush:
        invalidate_pcid(vm, vcpu, pcid)
    return False
