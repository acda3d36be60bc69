# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions of KVM's MMU ran, in which order: a function trace of the kernel against the calls made here.

    function: kvm_mmu_load <-- vcpu_run          call("kvm_mmu_load")
    kvm_exit: vcpu 0 reason PF ...               ANCHOR
    print: 0xffffffff8122acdf: MARK 3            ANCHOR

Only functions with a counterpart here (`KERNEL_NAMES`) that the compiler of that kernel left as functions can be
compared.  Calls are matched in order between two anchors, so that a difference does not spread past the next exit.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain

#: Stands in a sequence of calls for an exit of the guest or a marker of the VMM.
ANCHOR = "|"

#: Ours (room.module.function) -> the kernel's names, newest last.  FNAME(x) is paging64_x, paging32_x or nonpaging_x.
#: Left out: what the compiler split (.part), what does more or less here than there, and the entry points in vm.calls.
KERNEL_NAMES = {
    "mmu.contexts.after_set_cpuid": ("kvm_mmu_after_set_cpuid",),
    "mmu.contexts.init_mmu": ("kvm_init_mmu",),
    "mmu.contexts.init_shadow_mmu": ("shadow_mmu_init_context",),
    "mmu.contexts.reset": ("kvm_mmu_reset_context",),
    "mmu.contexts.unload": ("kvm_mmu_unload",),
    "mmu.contexts.update_permission_bitmask": ("update_permission_bitmask",),
    "mmu.dirty.get_dirty_log": ("kvm_get_dirty_log_protect",),      # the ioctl's body
    "mmu.dirty.invalidate_end": ("kvm_mmu_invalidate_end",),        # the notifier also hears of ranges outside all memslots
    "mmu.dirty.recover_huge_pages": ("kvm_mmu_zap_collapsible_sptes", "kvm_mmu_recover_huge_pages"),    # renamed
    "mmu.dirty.swap_active_memslots": ("kvm_swap_active_memslots",),
    "mmu.dirty.update_quota": ("kvm_arch_commit_memory_region",),
    "mmu.dirty.write_protect_slot": ("kvm_mmu_slot_remove_write_access",),
    "mmu.faults.before_lock": ("FNAME(page_fault)",),       # the handler by paging mode up to mmu_lock
    "mmu.faults.clear_flood": ("shadow_page_table_clear_flood",),
    "mmu.faults.direct_prefetch": ("__direct_pte_prefetch",),
    "mmu.faults.direct_prefetch_many": ("direct_pte_prefetch_many",),
    "mmu.faults.fast_page_fault": ("fast_page_fault",),
    "mmu.faults.faultin_pfn": ("kvm_faultin_pfn", "kvm_mmu_faultin_pfn"),       # renamed
    "mmu.faults.get_child_sp": ("kvm_mmu_get_child_sp",),
    "mmu.faults.hugepage_adjust": ("kvm_mmu_hugepage_adjust",),
    "mmu.faults.is_stale": ("is_page_fault_stale",),
    "mmu.faults.link_shadow_page": ("__link_shadow_page",),
    "mmu.faults.max_mapping_level": ("kvm_mmu_max_mapping_level", "__kvm_mmu_max_mapping_level"),   # 6.12: the inner one
    "mmu.faults.prefetch_gpte": ("FNAME(prefetch_gpte)",),
    "mmu.faults.set_spte": ("mmu_set_spte",),
    "mmu.faults.sync_spte": ("FNAME(sync_spte)",),
    "mmu.faults.validate_direct_spte": ("validate_direct_spte",),
    "mmu.flush.make_all_cpus_request": ("kvm_make_all_cpus_request",),
    "mmu.flush.remote_tlbs": ("kvm_flush_remote_tlbs",),
    "mmu.flush.remote_tlbs_gfn": ("kvm_flush_remote_tlbs_range",),      # kvm_flush_remote_tlbs_gfn is inline, calls this
    "mmu.flush.remote_tlbs_sptep": ("kvm_flush_remote_tlbs_sptep",),
    "mmu.flush.tlb_all": ("svm_flush_tlb_all",),            # kvm_vcpu_flush_tlb_all is inline, calls this
    "mmu.flush.tlb_current": ("svm_flush_tlb_current",),    # kvm_vcpu_flush_tlb_current is inline, calls this
    "mmu.flush.tlb_gva": ("svm_flush_tlb_gva",),
    "mmu.flush.tlb_hardware": ("svm_flush_tlb_asid",),
    "mmu.host.gfn_to_pfn_atomic": ("gfn_to_pfn_memslot_atomic",),
    "mmu.inject.page_fault": ("kvm_inject_page_fault",),
    "mmu.inject.queue": ("kvm_multiple_exception",),
    "mmu.inject.requeue": ("kvm_requeue_exception_e", "kvm_requeue_exception"),     # 7.2: one for both kinds
    "mmu.inject.emulated_page_fault": ("kvm_inject_emulated_page_fault", "__kvm_inject_emulated_page_fault"),   # renamed
    "mmu.memslots.mark_page_dirty": ("kvm_vcpu_mark_page_dirty",),
    "mmu.memslots.mark_page_dirty_in_slot": ("mark_page_dirty_in_slot",),
    "mmu.memslots.vcpu_gfn_to_memslot": ("kvm_vcpu_gfn_to_memslot",),
    "mmu.mmio.in_cache": ("mmio_info_in_cache",),
    "mmu.mmio.make_spte": ("make_mmio_spte",),
    "mmu.mmio.mark_spte": ("mark_mmio_spte",),
    "mmu.mmio.sync_spte": ("sync_mmio_spte",),
    "mmu.pte_list.add": ("pte_list_add",),
    "mmu.pte_list.remove": ("pte_list_remove",),
    "mmu.reclaim.change_mmu_pages": ("kvm_mmu_change_mmu_pages",),
    "mmu.reclaim.zap_oldest": ("kvm_mmu_zap_oldest_mmu_pages",),
    "mmu.rmap.add": ("__rmap_add",),                # rmap_add is inline, calls this
    "mmu.rmap.drop_spte": ("drop_spte",),
    "mmu.rmap.page_get_gfn": ("kvm_mmu_page_get_gfn",),
    "mmu.rmap.page_set_translation": ("kvm_mmu_page_set_translation",),
    "mmu.rmap.slot_gfn_write_protect": ("kvm_mmu_slot_gfn_write_protect",),
    "mmu.rmap.write_protect": ("rmap_write_protect",),
    "mmu.rmap.zap_all": ("kvm_zap_all_rmap_sptes",),
    "mmu.rmap.zap_gfn_range": ("__kvm_rmap_zap_gfn_range",),
    "mmu.roles.calc_cpu_role": ("kvm_calc_cpu_role",),
    "mmu.roles.child": ("kvm_mmu_child_role",),
    "mmu.roots.alloc_root": ("mmu_alloc_root",),
    "mmu.roots.free_obsolete_roots": ("kvm_mmu_free_obsolete_roots",),
    "mmu.roots.free_obsolete_of": ("__kvm_mmu_free_obsolete_roots",),
    "mmu.roots.free_roots": ("kvm_mmu_free_roots",),
    "mmu.roots.is_unsync_root": ("is_unsync_root",),
    "mmu.roots.is_visible_gfn": ("kvm_vcpu_is_visible_gfn",),
    "mmu.roots.load": ("kvm_mmu_load",),
    "mmu.roots.load_pgd": ("svm_load_mmu_pgd",),    # kvm_mmu_load_pgd is inline, calls this
    "mmu.roots.new_pgd": ("kvm_mmu_new_pgd",),
    "mmu.roots.put_root": ("mmu_free_root_page",),
    "mmu.roots.sync_prev_roots": ("kvm_mmu_sync_prev_roots",),
    "mmu.roots.sync_roots": ("kvm_mmu_sync_roots",),
    "mmu.shadow_pages.get": ("__kvm_mmu_get_shadow_page",),     # kvm_mmu_get_shadow_page is inline, calls this
    "mmu.sptes.clear_track_bits": ("mmu_spte_clear_track_bits",),
    "mmu.sptes.make": ("make_spte",),
    "mmu.sptes.make_nonleaf": ("make_nonleaf_spte",),
    "mmu.sptes.update": ("mmu_spte_update",),
    "mmu.tracking.gfn_is_write_tracked": ("kvm_slot_page_track_is_active", "kvm_gfn_is_write_tracked"),     # renamed
    "mmu.tracking.update_disallow_lpage": ("update_gfn_disallow_lpage_count",),
    "mmu.unsync.mark_parents_unsync": ("kvm_mmu_mark_parents_unsync",),
    "mmu.unsync.mark_unsync": ("mark_unsync",),
    "mmu.unsync.pages_clear_parents": ("mmu_pages_clear_parents",),
    "mmu.unsync.sync_children": ("mmu_sync_children",),
    "mmu.unsync.sync_page": ("FNAME(sync_page)", "__kvm_sync_page"),    # the body by paging mode until 6.1; all gptes
    "mmu.unsync.try_to_unsync_pages": ("mmu_try_to_unsync_pages",),
    "mmu.unsync.unlink_unsync_page": ("kvm_unlink_unsync_page",),
    "mmu.unsync.walk_below": ("__mmu_unsync_walk",),
    "mmu.walk.gpte_changed": ("FNAME(gpte_changed)",),
    "mmu.walk.gva_to_gpa": ("FNAME(gva_to_gpa)",),
    "mmu.walk.invalidate_addr": ("kvm_mmu_invalidate_gva", "kvm_mmu_invalidate_addr"),      # renamed
    "mmu.walk.invalidate_addr_in_root": ("FNAME(invlpg)", "__kvm_mmu_invalidate_addr"),     # renamed, by paging mode before
    "mmu.walk.read_gpte": ("kvm_vcpu_read_guest_atomic",),
    "mmu.walk.shadow_walk_init": ("shadow_walk_init_using_root",),
    "mmu.walk.walk_addr": ("FNAME(walk_addr_generic)",),
    "mmu.writes.track_write": ("kvm_mmu_pte_write", "kvm_mmu_track_write"),     # renamed
    "mmu.zap.announce": ("__kvm_mmu_prepare_zap_page",),    # its first step, once a page; the rest is in two functions here
    "mmu.zap.zap_all_fast": ("kvm_mmu_zap_all_fast",),
    "mmu.zap.zap_pte": ("mmu_page_zap_pte",),
    "mmu.zap.zap_unsync_children": ("mmu_zap_unsync_children",),
    "vm.emulation.fetch_gpa": ("kvm_fetch_guest_virt",),    # the translation in it
    "vm.entry.flush_tlb_guest": ("kvm_vcpu_flush_tlb_guest",),
    "vm.exits.handle_page_fault": ("kvm_handle_page_fault",),
    "vm.exits.mmu_page_fault": ("kvm_mmu_page_fault",),
    "vm.invalidation.invlpg": ("kvm_mmu_invlpg",),
    "vm.registers.invalidate_pcid": ("kvm_invalidate_pcid",),
    "vm.registers.load_pdptrs": ("load_pdptrs",),
    "vm.registers.post_set_cr0": ("kvm_post_set_cr0",),
    "vm.registers.post_set_cr4": ("kvm_post_set_cr4",),
    "vm.registers.set_cr0": ("kvm_set_cr0",),
    "vm.registers.set_cr3": ("kvm_set_cr3",),
    "vm.registers.set_cr4": ("kvm_set_cr4",),
    "vm.registers.set_sregs": ("__set_sregs_common",),
    "vm.registers.store_cr0": ("svm_set_cr0",),             # the part that EFER.LMA depends on
}
#: Kernel's name -> ours.
OURS = {name: ours for ours, names in KERNEL_NAMES.items() for name in names}

#: Called for each of 512 entries of every page that dies: most calls of a run, and little to get wrong.
MOST_CALLED = "mmu.zap.zap_pte"

_CLONE = re.compile(r"\.(?:isra|constprop)\.\d+")
_MODE = re.compile(r"(?:paging64|paging32|nonpaging)_(\w+)$")


def kernel_name(symbol):
    """A symbol as `KERNEL_NAMES` has it: without the compiler's mark of a changed signature, FNAME for the paging mode."""
    symbol = _CLONE.sub("", symbol)
    mode = _MODE.match(symbol)
    return f"FNAME({mode[1]})" if mode else symbol


def traceable(symbols):
    """Our names of those functions that the kernel can trace.  symbols: lines `name` or `name [module]`."""
    return {OURS[name] for line in symbols if line.strip() and (name := kernel_name(line.split()[0])) in OURS}


def parse(text):
    """Calls of a function trace, by our names, with anchors.  Exits for a host interrupt are not anchors (they do not
    occur here)."""
    calls = []
    for line in text.splitlines():
        kind, _, rest = line.partition(": ")
        if kind == "function":
            ours = OURS.get(kernel_name(rest.split(" ", 1)[0]))
            if ours is not None:
                calls.append(ours)
        elif kind == "print" or kind == "kvm_exit" and "reason interrupt" not in rest:
            calls.append(ANCHOR)
    return calls


@dataclass
class FunctionReport:
    """How far two sequences of calls agree.  unequal: our name -> (kernel's calls, ours)."""

    calls_total: int = 0
    calls_matched_in_order: int = 0
    calls_ours: int = 0
    functions_total: int = 0
    functions_with_equal_count: int = 0
    unequal: dict = field(default_factory=dict)


def compare(theirs, ours, names=None):
    """Hold two sequences of calls with anchors against each other: a FunctionReport.

    names: the functions to compare; without it, those that the kernel called (a function that it never called may be
    inlined there).
    """
    names = set(theirs) if names is None else set(names)
    names.discard(ANCHOR)
    a, b = ([call for call in side if call == ANCHOR or call in names] for side in (theirs, ours))
    count_a, count_b = Counter(a), Counter(b)
    if count_a.pop(ANCHOR, 0) != count_b.pop(ANCHOR, 0):
        # the runs went apart: what follows an anchor is not what follows its number
        pieces = [([call for call in a if call != ANCHOR], [call for call in b if call != ANCHOR])]
    else:
        pieces = list(zip(_pieces(a), _pieces(b), strict=True))
    called = sorted(count_a.keys() | count_b.keys())
    unequal = {name: (count_a[name], count_b[name]) for name in called if count_a[name] != count_b[name]}
    return FunctionReport(
        calls_total=count_a.total(), calls_matched_in_order=sum(common(x, y) for x, y in pieces), calls_ours=count_b.total(),
        functions_total=len(called), functions_with_equal_count=len(called) - len(unequal), unequal=unequal)


def _pieces(calls):
    """The lists between anchors."""
    piece = []
    for call in chain(calls, (ANCHOR,)):
        if call == ANCHOR:
            yield piece
            piece = []
        else:
            piece.append(call)


def common(a, b):
    """Length of the longest common subsequence.

    Bit-parallel (Hyyro 2004): bit i of `row` is clear where the length grows at a[i]; one step per item of b.
    """
    start, end_a, end_b = 0, len(a), len(b)
    while start < end_a and start < end_b and a[start] == b[start]:
        start += 1
    while end_a > start and end_b > start and a[end_a - 1] == b[end_b - 1]:
        end_a -= 1
        end_b -= 1
    equal = start + len(a) - end_a
    places = {}
    for i, item in enumerate(a[start:end_a]):
        places[item] = places.get(item, 0) | 1 << i
    full = (1 << end_a - start) - 1
    row = full
    for item in b[start:end_b]:
        hits = row & places.get(item, 0)
        row = (row + hits | row - hits) & full
    return equal + end_a - start - row.bit_count()
