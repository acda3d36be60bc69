# SPDX-License-Identifier: GPL-2.0-or-later
"""The counters of KVM_GET_STATS_FD that the MMU moves: names, and their places in `vm.stat` and `vcpu.stat`."""

#: struct kvm_vm_stat (x86) and its generic part.
VM_STATS = ("mmu_shadow_zapped", "mmu_pte_write", "mmu_pde_zapped", "mmu_flooded", "mmu_recycled", "mmu_cache_miss",
            "mmu_unsync", "pages_4k", "pages_2m", "pages_1g", "nx_lpage_splits", "max_mmu_rmap_size",
            "max_mmu_page_hash_collisions", "remote_tlb_flush", "remote_tlb_flush_requests",
            # not the kernel's: what the root cache and the shadow page cache answered
            "root_hit", "root_miss", "mmu_cache_hit", "mmu_synced", "mmu_unsynced", "mmu_page_created")
(MMU_SHADOW_ZAPPED, MMU_PTE_WRITE, MMU_PDE_ZAPPED, MMU_FLOODED, MMU_RECYCLED, MMU_CACHE_MISS, MMU_UNSYNC, PAGES_4K,
 PAGES_2M, PAGES_1G, NX_LPAGE_SPLITS, MAX_MMU_RMAP_SIZE, MAX_MMU_PAGE_HASH_COLLISIONS, REMOTE_TLB_FLUSH,
 REMOTE_TLB_FLUSH_REQUESTS, ROOT_HIT, ROOT_MISS, MMU_CACHE_HIT, MMU_SYNCED, MMU_UNSYNCED,
 MMU_PAGE_CREATED) = range(len(VM_STATS))
#: Those of `VM_STATS` that the kernel has.
KERNEL_VM_STATS = VM_STATS[:15]

#: struct kvm_vcpu_stat.
VCPU_STATS = ("pf_taken", "pf_fixed", "pf_emulate", "pf_spurious", "pf_fast", "pf_mmio_spte_created", "pf_guest",
              "tlb_flush", "invlpg", "insn_emulation", "insn_emulation_fail", "exits", "io_exits", "mmio_exits",
              "halt_exits", "nested_run", "hypercalls")
(PF_TAKEN, PF_FIXED, PF_EMULATE, PF_SPURIOUS, PF_FAST, PF_MMIO_SPTE_CREATED, PF_GUEST, TLB_FLUSH, INVLPG,
 INSN_EMULATION, INSN_EMULATION_FAIL, EXITS, IO_EXITS, MMIO_EXITS, HALT_EXITS, NESTED_RUN, HYPERCALLS) = range(len(VCPU_STATS))
