# SPDX-License-Identifier: GPL-2.0-or-later
"""What the MMU says while it works: the kernel's tracepoints, as rows of integers in a ring.

    row: | kind | argument 0 | ... | argument 10 |      one row per event, `layout.EVENT_WORDS` words

The table `EVENTS` names each kind's arguments in the order of the tracepoint's fields (mmutrace.h, trace.h of Linux
6.12).  Turning rows into the kernel's text belongs to the room `trace`.  An event whose bit in `vm.event_mask` is
clear costs one test.  When the ring is full, `vm.event_overrun` counts what was lost: nobody is told a false story.
"""

from .. import state
from ..state import core, layout

#: kind -> (name, fields).  `sp` stands for gen, gfn, role, root_count, unsync.
_SP = ("gen", "gfn", "role", "root_count", "unsync")
EVENTS = {
    1: ("kvm_mmu_pagetable_walk", ("addr", "pferr")),
    2: ("kvm_mmu_paging_element", ("pte", "level")),
    3: ("kvm_mmu_set_accessed_bit", ("gpa",)),
    4: ("kvm_mmu_set_dirty_bit", ("gpa",)),
    5: ("kvm_mmu_walker_error", ("pferr",)),
    6: ("kvm_mmu_get_page", (*_SP, "created")),
    7: ("kvm_mmu_sync_page", _SP),
    8: ("kvm_mmu_unsync_page", _SP),
    9: ("kvm_mmu_prepare_zap_page", _SP),
    10: ("mark_mmio_spte", ("sptep", "gfn", "access", "gen")),
    11: ("handle_mmio_page_fault", ("addr", "gfn", "access")),
    12: ("fast_page_fault", ("vcpu", "gva", "error_code", "sptep", "old_spte", "new_spte", "spurious", "fixed")),
    13: ("kvm_mmu_zap_all_fast", ("gen", "used_pages")),
    14: ("check_mmio_spte", ("spte", "kvm_gen", "spte_gen", "valid")),
    15: ("kvm_mmu_set_spte", ("gfn", "spte", "level", "at")),
    16: ("kvm_mmu_spte_requested", ("gfn", "pfn", "level", "access")),
    17: ("kvm_tdp_mmu_spte_changed", ("as_id", "gfn", "level", "old_spte", "new_spte")),
    18: ("kvm_mmu_split_huge_page", ("gfn", "spte", "level", "errno")),
    20: ("kvm_page_fault", ("vcpu", "rip", "address", "error_code")),
    21: ("kvm_exit", ("vcpu", "exit_code", "rip", "info1", "info2")),
    22: ("kvm_entry", ("vcpu", "rip", "immediate_exit", "intr_info", "error_code")),
    23: ("kvm_inj_exception", ("vector", "has_error", "error_code", "reinjected")),
    24: ("kvm_emulate_insn", ("csbase", "rip", "length", "bytes_low", "bytes_high", "mode", "failed")),
    25: ("kvm_pio", ("write", "port", "size", "count", "value")),
    26: ("kvm_userspace_exit", ("reason",)),
    27: ("kvm_msr", ("write", "ecx", "data", "exception")),
    28: ("kvm_mmio", ("type", "length", "gpa", "value")),
    29: ("kvm_cr", ("write", "cr", "value")),
    33: ("kvm_nested_vmenter", ("rip", "vmcb", "nested_rip", "int_ctl", "event_inj", "tdp_enabled", "guest_pgd")),
    34: ("kvm_nested_intercepts", ("cr_read", "cr_write", "exceptions", "intercept1", "intercept2", "intercept3")),
    35: ("kvm_nested_vmexit", ("vcpu", "exit_code", "rip", "info1", "info2")),
    36: ("kvm_nested_vmexit_inject", ("exit_code", "exit_info1", "exit_info2", "exit_int_info", "exit_int_info_err")),
    37: ("kvm_nested_vmenter_failed", ("check",)),
    38: ("kvm_invlpga", ("rip", "asid", "address")),
    39: ("kvm_hypercall", ("nr", "a0", "a1", "a2", "a3")),
    40: ("kvm_nested_intr_vmexit", ("rip",)),
    31: ("vcpu_match_mmio", ("gva", "gpa", "write", "gpa_match")),
    32: ("tracing_mark_write", ("mark", "a", "b")),
}
(PAGETABLE_WALK, PAGING_ELEMENT, SET_ACCESSED_BIT, SET_DIRTY_BIT, WALKER_ERROR, GET_PAGE, SYNC_PAGE, UNSYNC_PAGE,
 PREPARE_ZAP_PAGE, MARK_MMIO_SPTE, HANDLE_MMIO_PAGE_FAULT, FAST_PAGE_FAULT, ZAP_ALL_FAST, CHECK_MMIO_SPTE, SET_SPTE,
 SPTE_REQUESTED, TDP_SPTE_CHANGED, SPLIT_HUGE_PAGE) = range(1, 19)
(PAGE_FAULT, EXIT, ENTRY, INJ_EXCEPTION, EMULATE_INSN, PIO, USERSPACE_EXIT, MSR, MMIO, CR) = range(20, 30)
MATCH_MMIO, MARK = 31, 32
(NESTED_VMENTER, NESTED_INTERCEPTS, NESTED_VMEXIT, NESTED_VMEXIT_INJECT, NESTED_VMENTER_FAILED, INVLPGA, HYPERCALL,
 NESTED_INTR_VMEXIT) = range(33, 41)

#: `event_mask` values.
KVMMMU = (1 << 19) - 2
ALL = KVMMMU | sum(1 << kind for kind in EVENTS if kind >= 20)

_WORDS = layout.EVENT_WORDS
#: words before the first row: rows in the ring, rows lost
RING_HEADER = 2


@core
def emit(vm, kind, a=0, b=0, c=0, d=0, e=0, f=0, g=0, h=0):
    """Append one event if its kind is enabled."""
    if not (vm.event_mask >> kind) & 1:
        return
    ring = state.words(vm, vm.events)
    n = ring[0]
    if n >= vm.event_capacity:
        ring[1] += 1
        return
    at = RING_HEADER + n * _WORDS
    ring[at] = kind
    ring[at + 1] = a
    ring[at + 2] = b
    ring[at + 3] = c
    ring[at + 4] = d
    ring[at + 5] = e
    ring[at + 6] = f
    ring[at + 7] = g
    ring[at + 8] = h
    ring[0] = n + 1


@core
def shadow_page(vm, kind, sp, created):
    """An event with the common shadow page fields."""
    emit(vm, kind, sp.mmu_valid_gen, sp.gfn, sp.role, sp.root_count, sp.unsync, created)
