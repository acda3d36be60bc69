# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux 6.12: the release, and the recorded stable kernel 6.12.95 with the fixes of 2026."""

#: v6.12.0.
LINUX_6_12_0 = {
    "nonpresent_spte": -(1 << 63),
    "invlpg_zaps": 0,
    "dummy_root": 1,
    "unprotect_reworked": 1,
    "pre_fault": 1,                     # 6.11
    "reload_frees_obsolete": 0,
    "flush_on_reuse": 0,
    "child_gfn_must_match": 0,
    "child_role_must_match": 0,
    "link_zaps_any": 0,
    "drop_before_mmio_spte": 0,
    "stale_check_after_reclaim": 0,
    "track_all_address_spaces": 0,
    "protect_all_address_spaces": 0,
    "strict_old_spte": 0,
    "mmio_sync_looks": 0,
    "role_ignores": 0,
    "pae_root_unseen": 0,
    "set_spte_looks_at_gfn": 0,
    "mmio_write_needs_w": 0,
    "unsync_shortcut": 0,
    "exhibit": 0,
    "role_has_smep": 0,
    "dirty_with_writable": 0,
    "vectoring_check": 0,
    "mmio_cache_lacks_read": 0,
    "sregs_flush_guest_tlb": 1,
    "counts_used_pages_as_stat": 0,
    "sync_skips_same_access": 1,
    "prefetch_same_pfn_spurious": 0,
    "accessed_when_synchronizing": 0,
    "flush_only_mmu_writable": 0,
    "np_enable_ignored": 0,
    "npt_role_has_wp": 0,
    "nested_roots_survive": 0,
    "write_zaps_orphans": 0,
    "paging_on_rewrites_cr4": 1,
    "svm_flushbyasid": 1,
    "nx_huge_pages": 0,
    "hyperv_flush": 0,
    "max_huge_page_level": 3,
    "tdp_enabled": 0,
    "tdp_mmu_enabled": 0,
    "cpuid_invalidates_role": 1,
    "roots_freed_shared": 1,
    "ad_enabled": 1,
    "pml": 0,
    "eager_page_split": 1,
    "frozen_spte": -(1 << 63) | 0x5A0,
    "tdp_yields": 0,
    "tdp_zap_from_4k": 1,
    "tdp_change_traced_last": 0,
    "tdp_recovers_in_place": 0,
    "tdp_nx_recovery_shared": 0,
}

#: 6.12.95.
LINUX_6_12 = LINUX_6_12_0 | {
    "child_gfn_must_match": 1,          # 0cb2af2ea66a, CVE-2026-46113
    "link_zaps_any": 1,                 # the same
    "child_role_must_match": 1,         # 81ccda30b4e8, CVE-2026-53359
    "drop_before_mmio_spte": 1,         # aad885e77496, CVE-2026-23401
    "stale_check_after_reclaim": 1,     # CVE-2026-64561
    "track_all_address_spaces": 1,      # 0f38453cdb2e
}
