# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernel has WARN_ON_ONCE, BUG_ON or KVM_BUG_ON: here the condition is counted and the last one named.

The guest goes on as the kernel would (a WARN does not stop it); the checker and the tests fail on any warning.
"""

from ..state import core

#: The one that is no WARN of the kernel's: where a real CPU would go on and take whatever lies in the frame for entries.
NO_TABLE = 44

NAMES = {
    1: "rmap_remove: the spte is not in its rmap (KVM_BUG_ON_DATA_CORRUPTION)",
    2: "kvm_unlink_unsync_page: the page is not unsync",
    3: "clear_unsync_child_bit: unsync_children below zero",
    4: "is_root_usable: a root without a shadow page",
    5: "mmu_free_root_page: a root without a shadow page",
    6: "mmu_try_to_unsync_pages: an upper-level page would become unsync",
    7: "kvm_sync_page_check: the page belongs to another MMU context",
    8: "__link_shadow_page: the linked page has unsync children",
    9: "kvm_mmu_commit_zap_page: a page that is valid or still a root",
    10: "mmu_set_spte: spurious, but not in the rmap",
    11: "out of shadow pages (raise the VM's shadow page capacity)",
    12: "out of pte_list descriptors (raise the VM's capacity)",
    13: "kvm_mmu_page_fault: no root",
    14: "kvm_zap_obsolete_pages: an invalid page on the active list",
    15: "write track counter underflow",
    16: "disallow_lpage counter underflow",
    17: "no memslot for the gfn of an spte (NULL dereference in the kernel)",
    18: "FNAME(fetch): stopped above the goal level",
    19: "out of host page frames",
    20: "mmu_spte_update: the pfn changed",
    21: "kvm_mmu_page_set_translation: a direct page's gfn differs from its spte's",
    22: "kvm_mmu_invalidate_addr: not the current MMU",
    23: "reserved bits set in a shadow-present spte",
    24: "root_count below zero",
    25: "kvm_mmu_write_protect_fault: an MMIO address in a memslot (the per-vCPU MMIO cache is stale)",
    26: "kvm_tdp_mmu_zap_sp: a root, or a table that is not linked",
    40: "mmu_set_spte: a present spte of an indirect page gets another pfn (a WARN until CVE-2026-23402)",
    41: "a gfn outside of its memslot's tables (out-of-bounds access)",
    42: "a call or an access through a NULL pointer",
    43: "kvm_mmu_gfn_disallow_lpage: more write protections than pages per huge page (a WARN until 93df766322ba)",
    45: "mmu_free_root_page: mmu_lock is held for write where the TDP MMU wants it for read, or the other way round (lockdep)",
    46: "kvm_recover_nx_huge_pages: no memslot for the page",
    NO_TABLE: "the hardware walks a frame that is none of KVM's tables",
}


@core
def warn(vm, what):
    """Record that `what` (a key of NAMES) happened."""
    vm.warnings += 1
    vm.last_warning = what
