# SPDX-License-Identifier: GPL-2.0-or-later
"""From what is violated to where it is written and where it has gone wrong before: two small tables.

    kind of failure + last operation --> manual, what KVM does for it, upstream commits of that kind, invariant

The last operation of a minimal script is the one that needed something (a flush, a new role, a sync) and did not get it, so
it names the rule.  Commits are those of bugs with the same shape, not a diagnosis.  I1..I8: "invariants behind the
catalogue", docs/checker.md.
"""

from collections import namedtuple

from . import ops, verify

Cause = namedtuple("Cause", "manual kvm commits invariant")

INVARIANTS = {
    "I1": "a linked child is reused only if gfn and role match",
    "I2": "the gfn that removes an rmap entry is the gfn that inserted it",
    "I3": "after a flush that the architecture promises, no root that can be reached without another one has unsync pages",
    "I4": "write tracking belongs to the gfn, in every address space",
    "I5": "what changes the meaning of permissions is in the role, or zaps",
    "I6": "an invalid page is on no list, is not looked up, is nobody's parent",
    "I7": "an spte that loses MMU-writable is flushed on all CPUs before the table is trusted",
    "I8": "what the guest sees is a walk with a TLB that holds only entries valid since the last flush due",
}

#: (failure, code of the last operation).
_BY_OPERATION = {
    (verify.TRANSLATION, ops.MOV_CR3): Cause(
        "SDM vol. 3 4.10.4.1 (MOV to CR3), 4.10.2.2; APM vol. 2 5.5.1",
        "kvm_mmu_new_pgd, kvm_invalidate_pcid: a cached root may be reused only if it is in sync or a sync is requested",
        "21823fbda552, 509bfe3d9796, b53e84eed08b", "I3"),
    (verify.TRANSLATION, ops.INVLPG): Cause(
        "SDM vol. 3 4.10.4.1 (INVLPG); APM vol. 2 5.5.2",
        "kvm_mmu_invlpg: sync the spte in the current and the cached roots, then flush the address",
        "05b29633c7a9, 9fd4a4e3a3d9", "I8"),
    (verify.TRANSLATION, ops.INVPCID): Cause(
        "SDM vol. 3 4.10.4.1 (INVPCID); APM vol. 2 5.5.2",
        "kvm_handle_invpcid: cached roots of that PCID lose their place or are synced",
        "509bfe3d9796, e45e9e3998f0", "I3"),
    (verify.TRANSLATION, ops.MOV_CR4): Cause(
        "SDM vol. 3 4.10.4.1 (MOV to CR4), 4.6; APM vol. 2 5.5.2",
        "kvm_post_set_cr4: unload, flush or a new role, by the bit that changed",
        "509bfe3d9796 (PCIDE), 898761158be7 (SMEP), 0be0226f07d1 (SMAP)", "I5"),
    (verify.TRANSLATION, ops.MOV_CR0): Cause(
        "SDM vol. 3 4.10.4.1 (CR0.PG), 4.6 (CR0.WP)",
        "kvm_post_set_cr0, kvm_init_mmu: CR0.WP is in the role; PG 1 -> 0 flushes",
        "3dbe141595fa, cf9f4c0eb169", "I5"),
    (verify.TRANSLATION, ops.WRMSR_EFER): Cause(
        "SDM vol. 3 4.6, 4.5.4 (XD, reserved without NXE)", "set_efer: EFER.NX is in the role", "844a5fe219cf, 112022bdb5bc",
        "I5"),
    (verify.TRANSLATION, ops.STORE): Cause(
        "SDM vol. 3 4.10.4.1, 4.10.5; APM vol. 2 5.5.2",
        "kvm_mmu_track_write, mmu_try_to_unsync_pages: a write to a page table is seen, or makes its page unsync",
        "f81602958c11, d9e368d61263, 2e8a2c1b0306", "I7"),
    (verify.TRANSLATION, ops.SMM_ENTER): Cause(
        "APM vol. 2 5.5.2 (SMI); SDM vol. 3 32.3", "role.smm; write protection of a gfn in every address space",
        "0f38453cdb2e, 2e8a2c1b0306", "I4"),
    (verify.TRANSLATION, ops.SMM_LEAVE): Cause(
        "APM vol. 2 5.5.2 (RSM); SDM vol. 3 32.3", "role.smm; write protection of a gfn in every address space",
        "0f38453cdb2e, 2e8a2c1b0306", "I4"),
    (verify.TRANSLATION, ops.INIT): Cause(
        "SDM vol. 3 table 10-1 (TLBs invalid)", "kvm_vcpu_reset: a flush of the guest's TLB is requested", "df37ed38e6c2",
        "I3"),
    (verify.TRANSLATION, ops.UNMAP): Cause(
        "host: MMU notifier", "kvm_unmap_gfn_range: every spte of the range goes, and is flushed", "15aaa819e20c", "I2"),
    (verify.TRANSLATION, ops.MIGRATE): Cause(
        "host: MMU notifier", "kvm_unmap_gfn_range: no spte leads to the old frame after the notifier", "15aaa819e20c", "I2"),
    (verify.TRANSLATION, ops.HOST_FINISH): Cause(
        "host: MMU notifier", "mmu_invalidate_retry_gfn: a fault under way is done again if its page was invalidated meanwhile",
        "5f8a7cf25a7d, a955cad84cda", "I2"),
    (verify.TRANSLATION, ops.FINISH): Cause(
        "SDM vol. 3 4.10.5 (propagation to other processors)",
        "is_page_fault_stale, kvm_mmu_track_write: what was read before mmu_lock is checked again under it",
        "f7d9c7b7b902, 0e0fee5c539b", "I8"),
    (verify.TRANSLATION, ops.SET_CPUID): Cause(
        "SDM vol. 3 4.5.4 (bits from MAXPHYADDR on are reserved)", "kvm_mmu_after_set_cpuid", "49c6f8756cdf, de3ccd26fafc", "I5"),
    (verify.TRANSLATION, ops.SLOT_DELETE): Cause(
        "host: KVM_SET_USER_MEMORY_REGION", "kvm_mmu_zap_all_fast: every root is obsolete, every vCPU reloads",
        "34d4cb8fca1f, a955cad84cda", "I6"),
}
#: The failure alone.
_BY_FAILURE = {
    verify.TRANSLATION: Cause(
        "SDM vol. 3 4.6, 4.10.2.3, 4.10.4.1; APM vol. 2 5.5",
        "FNAME(fetch), kvm_mmu_get_child_sp: the role of a page carries the access of the whole path",
        "b1bd5cba3306 (CVE-2021-38198), 0cb2af2ea66a, 81ccda30b4e8", "I1"),
    verify.ACCESS: Cause("SDM vol. 3 4.6, 4.8, 4.10", "FNAME(walk_addr), permission_fault: the access should have faulted",
                         "b1bd5cba3306, 3dbe141595fa", "I8"),
    verify.FAULT: Cause("SDM vol. 3 4.7, 4.10.4.3", "FNAME(walk_addr): error code of the injected #PF",
                        "844a5fe219cf, 49c6f8756cdf", "I8"),
    verify.VECTOR: Cause("SDM vol. 3 4.7", "an access may raise #PF only", "c19986fea873", "I8"),
    verify.MARKS: Cause("SDM vol. 3 4.8; APM vol. 2 5.4.2", "FNAME(update_accessed_dirty_bits)", "f122dfe44768", "I8"),
    verify.LIVELOCK: Cause("an access that is permitted must end", "RET_PF_RETRY without progress", "d28c6cfbbc5e, 5f8a7cf25a7d",
                           "I8"),
    verify.DEAD: Cause("the guest has a valid root", "kvm_mmu_load", "0e3223d8d00a, c8b49e01a23b", "I6"),
    verify.HOST: Cause("host: memory of the VM only", "an spte outlives its memslot or host page",
                       "0cb2af2ea66a (CVE-2026-46113), 34d4cb8fca1f", "I2"),
    verify.READONLY: Cause("host: KVM_MEM_READONLY", "make_spte, kvm_faultin_pfn", "", "I2"),
    verify.DIRTY_LOG: Cause("host: KVM_GET_DIRTY_LOG is complete", "spte_write_protect, mark_page_dirty", "6b73a96065e8", "I7"),
    verify.WARNING: Cause("the kernel's own assertion", "WARN_ON_ONCE or KVM_BUG_ON", "aad885e77496, 0cb2af2ea66a", "I1"),
    verify.NOT_MMIO: Cause("SDM vol. 3 4.6", "the per-vCPU MMIO cache, MMIO sptes", "56f17dd3fbc4, b3e6212dea2e", "I8"),
    verify.NOT_REFUSED: Cause("SDM vol. 2, MOV to control registers", "kvm_set_cr3: bit 63 is taken off with CR4.PCIDE only",
                              "c19986fea873", "I8"),
    verify.FOLLOWS: Cause("", "kvm_mmu_track_write, FNAME(gpte_changed): a write to a protected table takes its shadow away",
                          "47c42e6b4192, f81602958c11, f7d9c7b7b902", "I8"),
}
_UNKNOWN = Cause("", "", "", "I8")

#: Failures by which a guest could hurt its host: no C reproducer is written for them.
PRIVATE = frozenset((verify.HOST, verify.READONLY, verify.WARNING, verify.DEAD, verify.CRASH, verify.HANG))
#: Failures that a guest can observe in itself: a C reproducer can show them.
GUEST_VISIBLE = frozenset((verify.TRANSLATION, verify.ACCESS, verify.FAULT))


def cause(failure, last_code):
    """What is known about a failure whose last operation has this code."""
    if failure > verify.INVARIANT:
        name = verify.FAILURES[failure][0].replace("-", "_")
        return Cause("", f"the MMU's own books; checker/invariants/{name}.py says what breaks without them", "", "I2")
    return _BY_OPERATION.get((failure, last_code)) or _BY_FAILURE.get(failure, _UNKNOWN)
