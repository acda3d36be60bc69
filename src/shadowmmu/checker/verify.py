# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold after every operation (DESIGN section 6).

    1  translation        what the hardware may hold permits no more than some permitted translation, to the same frame
    2  fault              a #PF that was delivered is permitted: error code, CR2, and that it came at all
    3  marks              A and D in guest tables, and nothing else of guest memory, changed by an access
    4  livelock           an access ends within operations.MAX_EXITS exits
    5  host               no spte of the hardware leads out of the VM's memory or into a read-only slot with W; dirty log
                          complete; no WARN; no translations of two page sizes for one address
    6  invariants         the MMU's state is in order (`invariants`); asked in every state that was not met before

Each check notes the first failure in the area (`area.fail`); `FAILURES` says what the number means, what the architecture
says, and what FAIL_A, FAIL_B, FAIL_C are.  Checks 1 to 3 rest once the host has written a guest page table behind the
MMU's back, or while a shadowed table has two gfns: KVM does not see such writes, and only promises that the host is safe.
The dirty log is complete when the host's operation on it has ended.
"""

from .. import state
from ..mmu import memslots, roles
from ..oracle import nested, tlb, walker
from ..state import core
from ..x86.bits import NX, PT_DIRTY, PT_USER, PT_WRITABLE
from . import architecture, follows, host_side, invariants, known, l2_paging, tlb_model, unshadowed
from . import area as areas

#: Failures from INVARIANT + 1 on are invariants (invariants.ALL) that do not hold.
INVARIANT = 100
(TRANSLATION, ACCESS, FAULT, VECTOR, MARKS, LIVELOCK, DEAD, HOST, READONLY, DIRTY_LOG, WARNING, NOT_MMIO,
 NOT_REFUSED, TWO_SIZES, NESTED_EXIT, FOLLOWS, CRASH, HANG) = range(1, 19)

#: Exit qualification: what the EPT entries permitted together (SDM vol. 3 table 28-7).
EPT_RIGHTS = 7 << 3
#: Number in mmu/warn.py of the warning that `mmio-cache-warning` sets aside.
CACHE_WARNING = 25

FAILURES = {
    # name, what it means, what A, B and C are
    TRANSLATION: ("translation", "the CPU may use a translation that the architecture does not permit "
                  "(SDM vol. 3 4.10.4.1, 4.6; APM vol. 2 5.5)", ("frame", "accesses the hardware permits",
                                                                  "accesses some permitted translation permits")),
    ACCESS: ("access", "an access succeeded that no permitted translation permits: wrong page, missing #PF, or A/D not set "
             "(SDM vol. 3 4.6, 4.8, 4.10)", ("frame", "access", "accesses permitted")),
    FAULT: ("fault", "a #PF was delivered that the architecture does not permit for this access, or with another error code "
            "(SDM vol. 3 4.7, 4.10.4.3)", ("error code", "CR2", "access")),
    VECTOR: ("vector", "an access raised an exception other than #PF", ("vector", "", "")),
    MARKS: ("marks", "guest memory changed by more than the A and D bits of the walk (SDM vol. 3 4.8)",
            ("RAM word", "before", "after")),
    LIVELOCK: ("livelock", "the access does not get done in a bounded number of exits", ("access", "", "")),
    DEAD: ("dead", "the vCPU cannot enter the guest although its root has memory", ("result", "", "")),
    HOST: ("host", "the CPU may use a host frame that does not belong to the VM's memslots", ("frame", "", "")),
    READONLY: ("readonly", "the CPU may write a page of a read-only memslot", ("frame", "gfn", "")),
    DIRTY_LOG: ("dirty-log", "the CPU may write a page that the dirty log has as clean", ("frame", "gfn", "")),
    WARNING: ("warning", "a condition that the kernel has a WARN or BUG for (mmu/warn.py)", ("number", "", "")),
    NOT_MMIO: ("not-mmio", "an access was emulated as MMIO although no permitted translation leads to an address without "
               "memory", ("access", "", "")),
    NOT_REFUSED: ("not-refused", "a MOV CR3 was carried out that must raise #GP(0) (SDM vol. 2, MOV to control registers), or an "
                  "EPTP was taken that must be refused (SDM vol. 3 27.2.1.1)", ("value", "", "")),
    TWO_SIZES: ("two-sizes", "the CPU may hold translations of two page sizes for one linear address, which KVM promises never "
                "to bring about (3be2264be3c0): it may use either (SDM vol. 3 4.10.2.3), and on some CPUs a fetch ends in a "
                "machine check (INTEL-SA-00210)", ("addresses (bit per page of the machine)", "", "")),
    NESTED_EXIT: ("nested-exit", "L2 left for L1 by a fault of the nested tables that the architecture does not permit for this "
                  "access, or with another error code or exit qualification (APM vol. 2 15.25.6; SDM vol. 3 table 28-7)",
                  ("error code or qualification", "guest-physical address", "access")),
}
FAILURES[FOLLOWS] = ("follows", "a present entry of the shadow of a write-protected guest table is not what that table says, and "
                     "nothing will correct it (checker/follows.py)", ("place of the entry", "", ""))
FAILURES[CRASH] = ("crash", "the MMU uses memory that is not its own, and its process ends: a wild pointer in a kernel",
                   ("", "", ""))
FAILURES[HANG] = ("hang", "an operation does not come to an end: an endless loop in a kernel", ("", "", ""))
FAILURES |= {INVARIANT + n: (invariants.name(n).replace("_", "-"), "an invariant of the MMU's state does not hold: "
                             + invariants.told(n), ("", "", ""))
             for n in range(1, invariants.COUNT + 1)}


@core
def has_alias(vm):
    """Has a guest page table that is shadowed a second gfn?  KVM tracks page tables by gfn: a store through another gfn of the
    same memory is none of its business."""
    for i in range(vm.n_pages):
        sp = state.page(vm, i)
        if not sp.in_use or not roles.has_gptes(sp.role):
            continue
        for k in range(vm.n_slots):
            slot = state.slot(vm, k)
            if slot.used and slot.as_id == roles.as_id(sp.role) and slot.base_gfn <= sp.gfn < slot.base_gfn + slot.npages:
                page = slot.hva + sp.gfn - slot.base_gfn
                for other in range(vm.n_slots):
                    s = state.slot(vm, other)
                    if other != k and s.used and s.as_id == slot.as_id and s.hva <= page < s.hva + s.npages:
                        return True
    return False


@core
def excused(vm, area):
    """Do checks 1 to 3 rest?"""
    h = areas.head(vm, area)
    return h[areas.TAINTED] != 0 or h[areas.UNTRACKED] != 0 and h[areas.ASIDE] & known.WRITE_WINDOW != 0 or has_alias(vm)


@core
def owner(vm, frame):
    """hva page whose host frame this is now; -1 for none."""
    hva = state.words(vm, vm.hva)
    for i in range(vm.n_hva):
        if hva[i] != -1 and hva[i] & ((1 << 56) - 1) == frame:
            return i
    return -1


@core
def host_page(vm, area, v, gva, frame, writable):
    """Check 5 for one page that the CPU may use."""
    page = owner(vm, frame)
    if page < 0:
        areas.fail(vm, area, HOST, v, gva, frame, 0, 0)
        return
    if not writable:
        return
    # the same host page may be in several slots; the mapping is one of theirs
    space = 1 if state.vcpu(vm, v).smm else 0
    clean = -1
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if not slot.used or slot.as_id != space or not slot.hva <= page < slot.hva + slot.npages:
            continue
        gfn = slot.base_gfn + page - slot.hva
        if slot.flags & memslots.READONLY:
            continue
        if not slot.flags & memslots.LOG_DIRTY_PAGES or memslots.gfn_meta(vm, i, gfn).dirty:
            return
        clean = gfn
    if clean >= 0 and areas.head(vm, area)[areas.HOST_CODE]:
        return
    if clean >= 0:
        areas.fail(vm, area, DIRTY_LOG, v, gva, frame, clean, 0)
    else:
        areas.fail(vm, area, READONLY, v, gva, frame, page, 0)


@core
def translations(vm, area, v):
    """Check 1 (and 5) for everything that the vCPU's hardware may use now."""
    h = areas.head(vm, area)
    vcpu = state.vcpu(vm, v)
    held = areas.part(vm, area, v, areas.HELD)
    hard = areas.part(vm, area, v, areas.HARDWARE_RIGHTS)
    pcid = tlb_model.current_pcid(vm, area, vcpu)
    small = 0
    large = 0
    for k in range(held[tlb_model.COUNT]):
        at = tlb_model.ROWS + k * tlb_model.ROW_WORDS
        name = held[at]
        if name & tlb_model.KIND or tlb_model.pcid_of(name) != pcid:
            continue
        value = held[at + 2]
        rights = 1 if value & PT_WRITABLE else 0
        if value & PT_USER:
            rights |= 2
        if value & NX:
            rights |= 4
        real = hard[rights] + 0
        writable = value & PT_WRITABLE != 0
        if h[areas.UNSHADOWED]:
            writable = value & PT_DIRTY != 0
            if not writable:
                real &= ~architecture.WRITES
        if not real:
            continue
        size = (1 << (vm.level_bits * ((name & tlb_model.LEVEL) - 1))) << vm.page_shift
        for i in range(h[areas.N_GVAS]):
            gva = h[areas.GVAS + i] + 0
            if gva & -size != held[at + 1]:
                continue
            if size == 1 << vm.page_shift:
                small |= 1 << i
            else:
                large |= 1 << i
            frame = tlb_model.frame_of(vm, held, k, gva)
            allowed = architecture.accesses_to(vm, area, v, i, frame)
            if real & ~allowed:
                allowed |= architecture.accesses_by_rows(vm, area, v, gva, frame)
                if real & ~allowed and not excused(vm, area):
                    areas.fail(vm, area, TRANSLATION, v, gva, frame, real, allowed)
            host_page(vm, area, v, gva, frame, writable)
    if small & large and not h[areas.KEPT]:
        areas.fail(vm, area, TWO_SIZES, v, 0, small & large, 0, 0)


@core
def linear_rows(vm, area, v):
    """Check 1 for what the hardware holds of the linear addresses of an L2 that pages itself."""
    i = l2_paging.held_wrong(vm, area, v)
    if i >= 0 and not excused(vm, area):
        gva, frame, rights = l2_paging.row_rights(vm, area, v, i)
        areas.fail(vm, area, TRANSLATION, v, gva, frame, rights, 0)


@core
def access_done(vm, area, v, gva, kind, frame):
    """Check 1 for an access that reached a host frame (NO_SLOT: MMIO)."""
    vcpu = state.vcpu(vm, v)
    bit = architecture.access_bit(kind, vcpu.cpl, vcpu.ac)
    h = areas.head(vm, area)
    if l2_paging.active(vm, area, v):
        if not l2_paging.reaches(vm, area, v, gva, kind, frame) and not l2_paging.reached_before(vm, area, v, frame) \
                and not excused(vm, area):
            areas.fail(vm, area, NOT_MMIO if frame < 0 else ACCESS, v, gva, frame, bit, 0)
        return
    allowed = architecture.accesses_by_rows(vm, area, v, gva, frame)
    for i in range(h[areas.N_GVAS]):
        if h[areas.GVAS + i] == gva & -(1 << vm.page_shift):
            allowed |= architecture.accesses_to(vm, area, v, i, frame)
    if not allowed & bit and not excused(vm, area):
        areas.fail(vm, area, NOT_MMIO if frame < 0 else ACCESS, v, gva, frame, bit, allowed)


@core
def fault_delivered(vm, area, v, gva, kind):
    """Check 2."""
    vcpu = state.vcpu(vm, v)
    if vcpu.exception_vector != 14:
        areas.fail(vm, area, VECTOR, v, gva, vcpu.exception_vector, 0, 0)
        return
    error = vcpu.exception_error
    paged = l2_paging.active(vm, area, v)
    if paged:
        permitted = vcpu.cr2 == gva and l2_paging.may_fault(vm, area, v, gva, kind, error)
    else:
        permitted = vcpu.cr2 == gva and architecture.may_fault(vm, area, v, gva, kind, error)
    if not permitted and not excused(vm, area):
        areas.fail(vm, area, FAULT, v, gva, error, vcpu.cr2, kind)
    if paged:
        if not areas.head(vm, area)[areas.ASIDE] & known.FAULT_KEEPS:
            l2_paging.guest_event(vm, area, v, tlb.PAGE_FAULT, gva)
    else:
        architecture.faulted(vm, area, v, gva)


@core
def nested_fault(vm, area, v, gva, kind, address, error):
    """Check 2 of an exit to L1: the page that it tells, and why.  (Bits 11:0 are not judged: where KVM walks itself, it tells
    the page.)"""
    if l2_paging.active(vm, area, v):
        permitted = l2_paging.may_exit(vm, area, v, gva, kind, address, error)
    else:
        permitted = address >> vm.page_shift == gva >> vm.page_shift and architecture.may_exit(vm, area, v, gva, kind, error)
    if not permitted and not excused(vm, area):
        areas.fail(vm, area, NESTED_EXIT, v, gva, error, address, kind)
    if not state.vcpu(vm, v).is_amd and not error & nested.MISCONFIGURATION:
        violated(vm, area, v, address, error)


@core
def violated(vm, area, v, address, error):
    """What an EPT violation takes.  With `violation-keeps` set aside: nothing where the entry was not present (no right in the
    exit qualification), else what is not in the tables at this moment."""
    keeps = areas.head(vm, area)[areas.ASIDE] & known.VIOLATION_KEEPS
    if keeps and not error & EPT_RIGHTS:
        return
    architecture.nested_event(vm, area, v, nested.EPT_VIOLATION, architecture.cpu_of(vm, area, v)[walker.TAG], address)
    if keeps:
        architecture.settle(vm, area)


@core
def untracked_marks(vm, area, v):
    """With `walk-untracked` set aside: has the walk of an L2 that pages itself set bits in a shadowed table that are not A
    and D of its entries?"""
    foreign = 0x60 << 32 if state.vcpu(vm, v).is_amd else 0x60 | 0x60 << 32
    ram = state.words(vm, vm.ram)
    snapshot = areas.common(vm, area, areas.SNAPSHOT)
    for i in range(vm.n_ram << (vm.page_shift - 3)):
        if (ram[i] ^ snapshot[i]) & foreign:
            page = owner(vm, (i >> (vm.page_shift - 3)) + vm.ram_pfn)
            if page >= 0:
                host_side.taint(vm, area, page)


@core
def marks(vm, area, v, gva, kind):
    """Check 3."""
    if l2_paging.active(vm, area, v) and areas.head(vm, area)[areas.ASIDE] & known.WALK_UNTRACKED:
        untracked_marks(vm, area, v)
    word = architecture.marks_wrong(vm, area, v, kind)
    if word >= 0 and not excused(vm, area):
        areas.fail(vm, area, MARKS, v, gva, word, areas.common(vm, area, areas.SNAPSHOT)[word],
                   state.words(vm, vm.ram)[word])


@core
def after_operation(vm, area):
    """Checks 1 and 5 over all vCPUs that run guest code now."""
    h = areas.head(vm, area)
    architecture.settle(vm, area)
    for v in range(vm.n_vcpus):
        if not state.vcpu(vm, v).in_guest:
            continue
        new = unshadowed.sample(vm, area, v) if h[areas.UNSHADOWED] else tlb_model.sample(vm, area, v)
        if new or h[areas.CHANGED] >> v & 1 or h[areas.CHANGED] < 0:
            translations(vm, area, v)
            if l2_paging.active(vm, area, v):
                linear_rows(vm, area, v)
            h[areas.CHANGED] &= ~(1 << v)
    if vm.last_warning == CACHE_WARNING and h[areas.ASIDE] & known.CACHE_WARNING:
        vm.warnings = 0
        vm.last_warning = 0
    if vm.warnings:
        areas.fail(vm, area, WARNING, -1, 0, vm.last_warning, 0, 0)


@core
def structure(vm, area):
    """Checks 6 and 7: the number of the failure if an invariant does not hold or a shadow does not follow its table; else 0."""
    number = invariants.violated(vm)
    if number:
        areas.fail(vm, area, INVARIANT + number, -1, 0, 0, 0, 0)
        return INVARIANT + number
    place = follows.differs(vm)
    if place >= 0 and not areas.head(vm, area)[areas.UNTRACKED] and not excused(vm, area):
        areas.fail(vm, area, FOLLOWS, -1, 0, place, 0, 0)
        return FOLLOWS + 0
    return 0
