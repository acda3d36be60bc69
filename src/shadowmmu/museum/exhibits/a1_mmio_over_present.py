# SPDX-License-Identifier: GPL-2.0-or-later
"""An MMIO spte is written over a present spte.

id:      A1
year:    2026
commits: aad885e77496
cve:     CVE-2026-23401
rules:   linux-6.12
change:  drop_before_mmio_spte=0
breaks:  rmap-exact
needs:   -
length:  2

mmu_set_spte stored the MMIO mark first and looked at what stood there afterwards. As long as KVM sees every write to a guest
page table the old entry is gone by then; but userspace may write guest memory, too, and KVM does not see that. Then a present
leaf is overwritten without leaving its reverse map: the rmap of the old gfn keeps the place of an entry that is no longer its
own, and the next user of that list changes or frees a stranger's entry. (The search needs no host for it: a page table that
is unsync may be changed by the guest without a flush, and a fault on the old entry then meets the new value.)

Fix: the present entry is dropped (rmap and all) before the MMIO spte is written, and the flush is not forgotten.
"""
