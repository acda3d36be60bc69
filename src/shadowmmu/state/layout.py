# SPDX-License-Identifier: GPL-2.0-or-later
"""What the machine state consists of: every record, declared once.

A field is `name=count`; every element is one signed 64-bit word.  Both storages (`compiled`, `interpreted`)
derive their accessors from these tables, so a field added here exists in both.

    +--------+-------+------+----------+-------+------+------+------+------+-----+----------+---------+
    | header | rules | vcpu | context  | pages | slot | desc | meta | hash | spt | ram      | scratch |
    +--------+-------+------+----------+-------+------+------+------+------+-----+----------+---------+
    0                                                                            (or outside) not hashed

The header holds the *offset* of each table (bytes from the header itself), never an address: copying the buffer
copies the machine, and one compilation serves every geometry.  Guest RAM and the event ring may lie in another
mapping; then the offset is simply the distance to it, and such a state cannot be cloned.
"""

WORD = 8

#: Lists a shadow page can be on (`PAGE.list`); each has a head and a tail in the header.
ACTIVE_LIST, INVALID_LIST, OBSOLETE_LIST, TDP_ROOT_LIST, NO_LIST = 0, 1, 2, 3, -1

NUM_PREV_ROOTS = 3          # KVM_MMU_NUM_PREV_ROOTS
MAX_RANGES = 8              # flushes by range that wait for the hardware; beyond that everything is flushed
PAGE_ARRAY_NR = 16          # KVM_PAGE_ARRAY_NR, the unsync vector
PTE_LIST_EXT = 14           # sptes in one pte_list_desc
MAX_LEVEL = 5               # PT64_ROOT_MAX_LEVEL
BITMAP_WORDS = 16           # unsync_child_bitmap: 512 bits in words of 32 (no sign bit to care for)
EVENT_WORDS = 12            # kind, vcpu, ten arguments
MAX_PREFETCH = 8            # PTE_PREFETCH_NUM
CONTEXTS_PER_VCPU = 3       # root_mmu, guest_mmu, nested_mmu
WALKERS_PER_VCPU = 3        # the fault's, everything else's, and the nested walk inside either
SPECIAL_PER_VCPU = 6        # pae_root, pml4_root, pml5_root for root_mmu and for guest_mmu

#: struct kvm, kvm->arch and the geometry.
HEADER = dict(
    # geometry: address bits per page, index bits per 8-byte-entry table, sizes of the tables below
    page_shift=1, level_bits=1, prefetch_num=1, n_vcpus=1, n_pages=1, n_slots=1, n_descs=1, n_meta=1, n_meta2=1,
    n_meta3=1, n_hash=1, n_ram=1, n_hva=1, special_frames=1, scaled=1,
    # table offsets, in bytes from the header
    rules=1, vcpus=1, contexts=1, pages=1, slots=1, descs=1, meta=1, meta2=1, meta3=1, hash=1, hva=1, free_ram=1,
    free_pages=1, spt=1, translation=1, ram=1, walkers=1, faults=1, sync=1, iter=1, hw_walk=1, events=1,
    # physical layout seen by the engine
    ram_pfn=1, shadow_pfn=1,
    # host memory (the primary MMU)
    n_free_ram=1,
    # allocators
    n_free_pages=1, desc_free=1, desc_next=1,
    # kvm->arch
    mmu_valid_gen=1, n_used_mmu_pages=1, n_max_mmu_pages=1, n_requested_mmu_pages=1, indirect_shadow_pages=1,
    list_head=4, list_tail=4, nx_head=1, nx_tail=1, tdp_mmu_pages=1, mmio_generation=2, invalidate_seq=1,
    invalidate_in_progress=1, invalidate_start=1, invalidate_end=1, shadow_root_allocated=1,
    # kvm->stat (names in mmu.counters.VM_STATS)
    stat=24,
    # events; the ring lies outside the hashed part
    event_mask=1, event_capacity=1,
    # something that the kernel would WARN or BUG about (see mmu/warn.py)
    warnings=1, last_warning=1,
    # ranges of guest-physical pages that Hyper-V has been asked to flush on all CPUs (mmu/flush.py)
    range_count=1, range_gfn=MAX_RANGES, range_pages=MAX_RANGES,
    # enable_mmio_caching: the host's physical addresses leave a bit of an entry reserved
    mmio_caching=1,
)

#: struct kvm_vcpu: guest registers that the MMU reads, requests, caches, pending events.
VCPU = dict(
    id=1, cr0=1, cr2=1, cr3=1, cr4=1, efer=1, rip=1, cpl=1, ac=1, pkru=1, cs_l=1, smm=1, guest_mode=1,
    # CPUID facts that translation depends on
    maxphyaddr=1, has_gbpages=1, has_pse36=1, has_nx=1, has_pcid=1, is_amd=1, pdpte_accessed_allowed=1,
    cr4_reserved=1, efer_reserved=1,
    mmu=1, walk_mmu=1, requests=1,
    # per-vCPU MMIO cache
    mmio_gva=1, mmio_gfn=1, mmio_access=1, mmio_gen=1,
    last_retry_eip=1, last_retry_addr=1,
    # exception queue (kvm_queued_exception), and what was being delivered at the last exit
    exception_pending=1, exception_injected=1, exception_vector=1, exception_has_error=1, exception_error=1,
    exception_payload=1, exception_has_payload=1, exception_set_rf=1,
    nmi_injected=1, interrupt_injected=1, interrupt_nr=1, interrupt_soft=1, triple_fault=1,
    # what the hardware must do before the next entry (see vm/hardware.py)
    hw_root=1, hw_flush=1, hw_flush_count=1, hw_flush_gva=16, hw_asid_generation=1,
    in_guest=1, immediate_exit=1,
    # nested guests (mmu/nested.py): levels of the host's nested tables; VMX capabilities; L1's table for L2 (nCR3 or EPTP);
    # L2's PDPTEs are to be read again; L2's VPID and the last one used
    tdp_level=1, ept_ad=1, ept_execonly=1, ept_huge_level=1, nested_pgd=1, pdptrs_stale=1, vpid=1, last_vpid=1,
    # L1's own registers while L2 runs (the host state of a VMCS)
    l1_cr0=1, l1_cr3=1, l1_cr4=1, l1_efer=1,
    # what L1 intercepts: mask of exceptions, and a triple fault
    nested_exceptions=1, nested_shutdown=1,
    # a nested #VMEXIT that is due (kvm_queued_exception exception_vmexit, or a fault of L1's nested tables)
    vmexit_pending=1, vmexit_vector=1, vmexit_has_error=1, vmexit_error=1, vmexit_has_payload=1, vmexit_payload=1,
    vmexit_qualification=1, fault_qualification=1,
    stat=20,
)

#: struct kvm_mmu.
CONTEXT = dict(
    id=1, bad_mt_xwr=1,
    cpu_role=1, cpu_ext=1, root_role=1, root_hpa=1, root_pgd=1, prev_hpa=NUM_PREV_ROOTS, prev_pgd=NUM_PREV_ROOTS,
    kind=1, pae_root=1, pml4_root=1, pml5_root=1, special=1, pdptrs=4, permissions=16, pkru_mask=1, rsvd=2 * MAX_LEVEL,
    valid=1,
)

#: struct kvm_mmu_page.
PAGE = dict(
    id=1, gfn=1, role=1, unsync=1, unsync_children=1, root_count=1, mmu_valid_gen=1, write_flooding_count=1,
    parent_ptes=1, hash_next=1, hash_prev=1, list=1, next=1, prev=1, has_translation=1, nx_huge_page_disallowed=1,
    nx_listed=1, nx_next=1, nx_prev=1, in_use=1,
    # pages of the TDP MMU: the entry that points here (-1: a root)
    tdp_mmu_page=1, ptep=1, tdp_scheduled_to_zap=1,
    unsync_child_bitmap=BITMAP_WORDS,
)

#: struct kvm_memory_slot.  `meta`, `meta2`, `meta3`: first index in the per-gfn tables of the three levels.
SLOT = dict(id=1, as_id=1, base_gfn=1, npages=1, hva=1, flags=1, used=1, meta=1, meta2=1, meta3=1)

#: struct pte_list_desc.
DESC = dict(more=1, spte_count=1, tail_count=1, sptes=PTE_LIST_EXT)

#: Per 4K gfn of a slot: rmap[0], gfn_write_track, dirty bitmap bit.
META = dict(rmap=1, write_track=1, dirty=1)
#: Per 2M (meta2) or 1G (meta3) of a slot: rmap[1], rmap[2] and kvm_lpage_info.
META_LARGE = dict(rmap=1, disallow_lpage=1)

#: struct guest_walker.
WALKER = dict(
    # the entry in hand, and the AND of the permissions down to it
    gpte=1, access=1,
    # `real_gfn`: L1's frame of a table; differs from table_gfn only in walks of nested_mmu
    level=1, max_level=1, table_gfn=MAX_LEVEL, real_gfn=MAX_LEVEL, ptes=MAX_LEVEL, pte_gpa=MAX_LEVEL, pte_writable=MAX_LEVEL,
    pt_access=MAX_LEVEL, pte_access=1, gfn=1, prefetch_ptes=MAX_PREFETCH,
    fault_error=1, fault_address=1, fault_nested=1,
)

#: struct kvm_page_fault, plus where the handler is when a step ends at an mmu_lock boundary.
FAULT = dict(
    addr=1, error_code=1, exec=1, write=1, present=1, rsvd=1, user=1, prefetch=1, is_tdp=1, max_level=1, req_level=1,
    goal_level=1, gfn=1, slot=1, pfn=1, map_writable=1, mmu_seq=1, huge_page_disallowed=1, nx_workaround=1,
    write_fault_to_shadow_pgtable=1,
    # shadow walk iterator
    it_addr=1, it_level=1, it_frame=1, it_index=1, it_sptep=1,
)

#: struct kvm_mmu_pages and struct mmu_page_path.
SYNC = dict(nr=1, sp=PAGE_ARRAY_NR, idx=PAGE_ARRAY_NR, parent=MAX_LEVEL, path_idx=MAX_LEVEL)

#: struct tdp_iter, and where the removal of a subtree stands at each level (mmu/tdp_mmu.py).
TDP_ITER = dict(
    next_last_level_gfn=1, yielded=1, yielded_gfn=1, gfn=1, end=1, level=1, root_level=1, min_level=1, as_id=1, sptep=1,
    old_spte=1, valid=1,
    path=MAX_LEVEL, removed_page=MAX_LEVEL, removed_index=MAX_LEVEL, removed_spte=MAX_LEVEL,
)

#: One two-dimensional page walk of the hardware (vm/two_dimensional.py): the CPU's registers, and what came out.
HW_WALK = dict(
    cr0=1, cr3=1, cr4=1, efer=1, nested_root=1, nested_level=1, ept=1, phys_bits=1, pkru=1,
    rsvd_without_present=1, pdpte_accessed=1,
    # result: host physical address, permissions (read 1, write 2, execute 4); or the fault
    hpa=1, prot=1, nested_prot=1, page_size=1, error=1, address=1,
    # only look: no A, no D, no counting
    peek=1,
    # entries read: of the guest's tables, of the nested (or shadow) tables; before the current walk, and most in one
    guest_refs=1, nested_refs=1, walks=1, refs_before=1, most_refs=1,
)

RECORDS = dict(HEADER=HEADER, VCPU=VCPU, CONTEXT=CONTEXT, PAGE=PAGE, SLOT=SLOT, DESC=DESC, META=META,
               META_LARGE=META_LARGE, WALKER=WALKER, FAULT=FAULT, SYNC=SYNC, TDP_ITER=TDP_ITER,
               HW_WALK=HW_WALK)


def record_words(layout):
    """Size of one record in 64-bit words."""
    return sum(layout.values())
