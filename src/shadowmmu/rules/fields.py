# SPDX-License-Identifier: GPL-2.0-or-later
"""The fields of the rules record: name -> what it decides."""

FIELDS = {
    "nonpresent_spte": "value of an empty spte: 0, or bit 63 (SHADOW_NONPRESENT_VALUE)",
    "invlpg_zaps": "INVLPG zaps the spte and prefetches (until 9fd4a4e3a3d9) instead of rereading the gpte",
    "dummy_root": "a root gfn without memory gets a dummy root (0e3223d8d00a) instead of a triple fault",
    "unprotect_reworked": "unprotect-and-retry of 6.12 (retry only if something was zapped, in the fault handler)",
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
    "unsync_shortcut": "where a large page is allowed nothing is shadowed, so the hash chain is not searched (b3ae3ceb5569)",
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
    "nx_huge_pages": "the iTLB multihit workaround is on",
    "max_huge_page_level": "largest spte level: 3 where the host has 1G pages, else 2",
}
