# SPDX-License-Identifier: GPL-2.0-or-later
"""The MMIO cache of a vCPU is stamped with the generation of the wrong memslots.

id:      A9
year:    2026
commits: b3e6212dea2e
cve:     CVE-2026-99082
rules:   linux-6.12
change:  -
breaks:  not-mmio
needs:   SMM, host
length:  4

A vCPU remembers the last address that had no memory, together with the generation of the memslots, so that a new memslot
makes it forget. The generation was always taken from the ordinary address space. In system management mode other memslots
count: when one of those is added, the number that was remembered stays current, and accesses to real memory are emulated as
MMIO.

Fix: the generation is that of the memslots which the vCPU uses at that moment.
"""


@replaces("mmu.mmio.cache_info")
def cache_info(vm, vcpu, gva, gfn, access):
    """vcpu_cache_mmio_info.  With GVA 0 (direct maps) only the gfn can match."""
    generation = vm.mmio_generation[0]
    # a generation that is being updated is never cached
    # with nested tables the address of a fault is L2's gpa, which must not match
    vcpu.mmio_gva = gva & -(1 << vm.page_shift) if gva and not nested.is_nested(vcpu) else 0
    vcpu.mmio_access = access
    vcpu.mmio_gfn = gfn
    vcpu.mmio_gen = generation


@replaces("mmu.mmio.match_gen")
def match_gen(vm, vcpu):
    """vcpu_match_mmio_gen."""
    return vcpu.mmio_gen == vm.mmio_generation[0]
