# SPDX-License-Identifier: GPL-2.0-or-later
"""The fields of the rules record: name -> what it decides."""

FIELDS = {
    "nonpresent_spte": "value of an empty spte: 0, or bit 63 (SHADOW_NONPRESENT_VALUE)",
    "invlpg_zaps": "INVLPG zaps the spte and prefetches (until 9fd4a4e3a3d9) instead of rereading the gpte",
    "dummy_root": "a root gfn without memory gets a dummy root (0e3223d8d00a) instead of a triple fault",
    "unprotect_reworked": "unprotect-and-retry of 6.12 (retry only if something was zapped, in the fault handler)",
    "pre_fault": "KVM_PRE_FAULT_MEMORY exists",
    "reload_frees_obsolete": "kvm_mmu_reload frees obsolete roots first",
    "flush_on_reuse": "module parameter: sync and flush when a cached root is reused",
    "child_gfn_must_match": "get_child_sp reuses a linked table only for the same gfn (0cb2af2ea66a)",
    "child_role_must_match": "get_child_sp reuses a linked table only with the same role (81ccda30b4e8)",
    "link_zaps_any": "linking zaps whatever entry was there (0cb2af2ea66a), not only a large one",
    "drop_before_mmio_spte": "a present spte is dropped before an MMIO spte replaces it (aad885e77496)",
    "stale_check_after_reclaim": "the stale-root check follows make_mmu_pages_available (CVE-2026-64561)",
    "track_all_address_spaces": "write tracking looks at every address space (0f38453cdb2e)",
    "protect_all_address_spaces": "a page table is write-protected and kept out of large mappings in every address space; no "
                                  "kernel does so, it is what the checker puts in place to set `smm-protection` aside",
    "strict_old_spte": "make_spte looks at the old entry more closely; no kernel does so, it is what the checker puts in place "
                       "to set `mmio-writable` aside",
    "mmio_sync_looks": "syncing an MMIO spte looks for a memslot; no kernel does so, it is what the checker puts in place to set "
                       "`mmio-resync` aside",
    "pae_root_unseen": "a PAE guest's root is made although the page behind CR3 has no memslot; no kernel does so, it is what "
                       "the checker puts in place to set `pae-root` aside",
    "mmio_write_needs_w": "the per-vCPU MMIO cache answers a write only if its access has W; no kernel does so, it is what the "
                          "checker puts in place to set `mmio-clean` aside",
    "set_spte_looks_at_gfn": "mmu_set_spte drops an entry that maps the same page for another gfn; no kernel does so, it is what "
                             "the checker puts in place to set `alias-rmap` aside",
    "unsync_shortcut": "where a large page is allowed nothing is shadowed, so the hash chain is not searched (b3ae3ceb5569)",
    "role_ignores": "bits of the page role that no comparison of roles looks at: 0 in every kernel; the role audit of the museum "
                    "leaves out one bit at a time",
    "exhibit": "which exhibit of a patch that holds several is in force (museum/combined.py); 0: none",
    "role_has_smep": "CR4.SMEP itself is in the page role (7.2), not only together with CR0.WP=0",
    "dirty_with_writable": "make_spte sets D whenever it sets W, also over a writable spte",
    "vectoring_check": "emulating a #PF exit while an event is being delivered ends the run (internal error 3)",
    "mmio_cache_lacks_read": "the per-vCPU MMIO cache never answers a read by address (ACC_READ missing in 7.2)",
    "sregs_flush_guest_tlb": "KVM_SET_SREGS that changes a paging register flushes the guest's TLB",
    "counts_used_pages_as_stat": "n_used_mmu_pages is the statistic mmu_shadow_pages (7.2)",
    "sync_skips_same_access": "sync leaves an spte alone whose gfn and access are unchanged",
    "prefetch_same_pfn_spurious": "prefetch onto a present entry with the same pfn does nothing",
    "accessed_when_synchronizing": "a synced spte is made accessed",
    "flush_only_mmu_writable": "mmu_spte_update asks for a flush only when MMU-writable is lost",
    "np_enable_ignored": "a VMCB with NP_ENABLE runs without nested paging on a host that has none, instead of failing",
    "npt_role_has_wp": "the role of a shadowed NPT has cr0_wp set",
    "nested_roots_survive": "a parentless page of L1's nested tables is kept while it is a root (7a2c70e777a0)",
    "write_zaps_orphans": "a write to an upper nested table also zaps the page that loses its last parent",
    "paging_on_rewrites_cr4": "#VMEXIT from an unpaged L2 leaves L2's CR4 (with PAE and MCE) in L1's, with shadow paging",
    "svm_flushbyasid": "CPUID offers FLUSHBYASID to a guest hypervisor",
    "nx_huge_pages": "the iTLB multihit workaround is on",
    "hyperv_flush": "KVM is a guest of Hyper-V, which flushes ranges of guest-physical addresses on all CPUs "
                    "(hv_flush_remote_tlbs_range)",
    "max_huge_page_level": "largest spte level: 3 where the host has 1G pages, else 2",
    "tdp_enabled": "module parameter kvm_amd.npt or kvm_intel.ept: two-dimensional paging",
    "tdp_mmu_enabled": "module parameter kvm.tdp_mmu: direct roots belong to the TDP MMU",
    "roots_freed_shared": "kvm_mmu_free_roots holds mmu_lock for read where the role says direct and the TDP MMU is on "
                          "(576a15de8d29)",
    "cpuid_invalidates_role": "KVM_SET_CPUID2 marks the MMUs' root roles invalid instead of clearing them",
    "ad_enabled": "nested page tables of the host have accessed and dirty bits (kvm_intel.eptad; always on AMD)",
    "pml": "module parameter kvm_intel.pml: the hardware logs dirty pages, D is cleared instead of W",
    "eager_page_split": "module parameter kvm.eager_page_split: huge pages are split when a dirty log begins",
    "frozen_spte": "FROZEN_SPTE (REMOVED_SPTE): an entry of the TDP MMU that nobody may touch",
    "tdp_yields": "somebody always waits for mmu_lock: a loop over entries of the TDP MMU gives it away wherever it may",
    "tdp_zap_from_4k": "a root of the TDP MMU is zapped in passes from 4K on, not from 1G on",
    "tdp_change_traced_last": "kvm_tdp_mmu_spte_changed of a cut-off table follows what its removal traces",
    "tdp_nx_recovery_shared": "NX huge page recovery zaps under mmu_lock for read, off the list first (a57750909580)",
    "tdp_recovers_in_place": "huge pages come back by replacing the table (13e2e4f62a4b), not by zapping it",
}
