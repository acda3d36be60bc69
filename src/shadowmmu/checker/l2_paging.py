# SPDX-License-Identifier: GPL-2.0-or-later
"""L2 with paging of its own on nested tables: what the oracle permits for its linear addresses, and what the hardware's TLB has
of them.

    cpu2       L2's registers, for the oracle                 | behind the vCPUs' blocks, on machines with L2 paging only:
    combined   rows of oracle.nested: linear -> physical      | areas.EXTRA
    linear     the hardware's rows: address | what it permits | filled by accesses, emptied by flushes

The tables of L2 are nobody's shadow: the hardware walks them.  What KVM owes here are the flushes of what it does in L2's
place (an INVLPG that it emulates, a CR4 that it loads), and right walks where its emulator needs them.
"""

from .. import state
from ..oracle import nested, tlb, walker
from ..oracle.ept import ACCESSED as EPT_ACCESSED
from ..state import core
from ..vm import two_dimensional
from ..x86.bits import (
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    FRAME_MASK,
    FRAME_SHIFT,
    PFERR_FETCH,
    PFERR_WRITE,
)
from . import architecture, known
from . import area as areas

#: The hardware's rows: count, then linear page address, host frame, and what it permits (two_dimensional.READ_BIT ...) to whom,
#: tag.
ROW_WORDS, MAX_ROWS = 3, 32
LINEAR_WORDS = 1 + ROW_WORDS * MAX_ROWS
USER_ROW, TAG_SHIFT = 1 << 8, 9
#: Right of a row, and the access that it permits.
KINDS = ((two_dimensional.READ_BIT, walker.READ), (two_dimensional.WRITE_BIT, PFERR_WRITE),
         (two_dimensional.EXEC_BIT, PFERR_FETCH))
#: Places in a vCPU's extra block.
COMBINED_ROWS = 120
CPU2 = 0
COMBINED = CPU2 + walker.CPU_WORDS
LINEAR = COMBINED + tlb.words_for(COMBINED_ROWS)
OUT2 = LINEAR + LINEAR_WORDS
WORK = OUT2 + walker.OUT_WORDS
OUTCOMES2 = WORK + nested.WORK_WORDS
OUTCOME_WORDS = 2 * COMBINED_ROWS + 80
#: What was permitted before the access under way: its marks may change the tables that translate it, where L2's lie among L1's.
BEFORE2 = OUTCOMES2 + OUTCOME_WORDS
EXTRA_WORDS = BEFORE2 + OUTCOME_WORDS


@core
def active(vm, area, v):
    """Does L2 run with paging?"""
    return areas.head(vm, area)[areas.L2_CR0] != 0 and state.vcpu(vm, v).guest_mode != 0


@core
def extra(vm, area, v, place):
    return state.words(vm, area + 8 * (areas.VCPUS + vm.n_vcpus * areas.VCPU_WORDS + v * EXTRA_WORDS + place))


@core
def combined_of(vm, area, v):
    return extra(vm, area, v, COMBINED)


@core
def set_access(vm, area, v, cpl, ac):
    """CPL and EFLAGS.AC of the access that follows."""
    cpu = extra(vm, area, v, CPU2)
    cpu[walker.CPL] = cpl
    cpu[walker.AC] = ac


# ---- registers

@core
def take_registers(vm, area, v):
    """L2's registers as they are."""
    vcpu = state.vcpu(vm, v)
    cpu = extra(vm, area, v, CPU2)
    cpu[walker.CR0] = vcpu.cr0
    cpu[walker.CR3] = vcpu.cr3
    cpu[walker.CR4] = vcpu.cr4
    cpu[walker.EFER] = vcpu.efer
    cpu[walker.MAXPHYADDR] = vcpu.maxphyaddr
    cpu[walker.AMD] = vcpu.is_amd
    cpu[walker.GBPAGES] = vcpu.has_gbpages
    cpu[walker.PSE36] = 0
    walker.prepare(cpu, vm.level_bits)


@core
def entered(vm, area, v, tag):
    """L2 has been entered with this ASID or VPID."""
    if extra_capacity(vm, area, v) == 0:
        tlb.clear(extra(vm, area, v, COMBINED), COMBINED_ROWS)
    extra(vm, area, v, CPU2)[walker.TAG] = tag
    take_registers(vm, area, v)


@core
def extra_capacity(vm, area, v):
    return extra(vm, area, v, COMBINED)[tlb.CAPACITY] + 0


@core
def guest_event(vm, area, v, what, gva):
    """What L2 does in its own world, or KVM in its place: the oracle's rule."""
    cpu = extra(vm, area, v, CPU2)
    nested.guest_event(architecture.memory_of(vm, area, v), cpu, extra(vm, area, v, COMBINED), what, 0, gva,
                       extra(vm, area, v, OUT2))


@core
def registers_written(vm, area, v):
    """MOV CR0, CR4 of L2 have been done: the rules that the changed bits call for (oracle.tlb, mov_cr0 and mov_cr4)."""
    vcpu = state.vcpu(vm, v)
    cpu = extra(vm, area, v, CPU2)
    changed = cpu[walker.CR4] ^ vcpu.cr4
    if (cpu[walker.CR0] ^ vcpu.cr0) & CR0_PG:
        guest_event(vm, area, v, tlb.PG_SET if vcpu.cr0 & CR0_PG else tlb.PG_CLEARED, 0)
    if changed & CR4_PGE:
        guest_event(vm, area, v, tlb.PGE_TOGGLED, 0)
    if changed & CR4_PAE:
        guest_event(vm, area, v, tlb.PAE_TOGGLED, 0)
    if changed & CR4_PSE:
        guest_event(vm, area, v, tlb.PSE_TOGGLED, 0)
    if changed & vcpu.cr4 & CR4_SMEP:
        guest_event(vm, area, v, tlb.SMEP_SET, 0)
    if changed & (CR4_SMEP | CR4_SMAP) or (cpu[walker.CR0] ^ vcpu.cr0) & CR0_WP:
        # rows of the hardware hold verdicts, which a CPU makes anew
        flush(vm, area, v)
    take_registers(vm, area, v)


# ---- what the oracle permits

@core
def ask(vm, area, v, gva, kind):
    """Fill OUTCOMES2 with what is permitted for an access now; both sets of rows learn."""
    combined = extra(vm, area, v, COMBINED)
    nested.permitted(architecture.memory_of(vm, area, v), extra(vm, area, v, CPU2), architecture.cpu_of(vm, area, v),
                     architecture.permitted_of(vm, area, v), combined, gva, kind, areas.common(vm, area, areas.OUT),
                     extra(vm, area, v, OUT2), extra(vm, area, v, WORK), extra(vm, area, v, OUTCOMES2))
    if combined[tlb.OVERFLOW] or architecture.permitted_of(vm, area, v)[tlb.OVERFLOW]:
        areas.head(vm, area)[areas.FULL] = 1
    return extra(vm, area, v, OUTCOMES2)


@core
def learn(vm, area, v):
    """Everything that may be cached for L2's linear pages at this moment."""
    h = areas.head(vm, area)
    for i in range(h[areas.N_GVAS]):
        ask(vm, area, v, h[areas.GVAS + i] + 0, walker.READ)


@core
def remember(vm, area, v, gva, kind):
    """Before an access: what is permitted now."""
    outcomes = ask(vm, area, v, gva, kind)
    before = extra(vm, area, v, BEFORE2)
    for i in range(1 + 2 * outcomes[0]):
        before[i] = outcomes[i]


@core
def is_among(outcomes, what, value):
    """Is this outcome in the table?"""
    for i in range(outcomes[0]):
        if outcomes[1 + 2 * i] == what and outcomes[2 + 2 * i] == value:
            return True
    return False


@core
def was_permitted(vm, area, v, what, value):
    """Did `remember` note this outcome?"""
    return is_among(extra(vm, area, v, BEFORE2), what, value)


@core
def one_leads_to(vm, area, v, outcomes, frame):
    """Does an outcome of the table go to this host frame (NO_SLOT, UNBACKED_WRITE: to no memory)?"""
    for i in range(outcomes[0]):
        if outcomes[1 + 2 * i] == walker.TRANSLATED and architecture.leads_to(vm, area, v, outcomes[2 + 2 * i] + 0, frame):
            return True
    return False


@core
def reached_before(vm, area, v, frame):
    """Might the access that is under way go to this host frame when it began?"""
    return one_leads_to(vm, area, v, extra(vm, area, v, BEFORE2), frame)


@core
def reaches(vm, area, v, gva, kind, frame):
    """May the access go to this host frame?"""
    return one_leads_to(vm, area, v, ask(vm, area, v, gva, kind), frame)


@core
def may_fault(vm, area, v, gva, kind, error):
    """Is this #PF permitted?"""
    return is_among(ask(vm, area, v, gva, kind), walker.DENIED, error) or was_permitted(vm, area, v, walker.DENIED, error)


@core
def may_exit(vm, area, v, gva, kind, address, error):
    """Is an exit for this fault of the nested tables permitted?  Whether it is told as one of the access or of a table is not
    judged."""
    page = address >> vm.page_shift
    host = architecture.cpu_of(vm, area, v)
    ept = host[walker.FORMAT] == walker.EPT_TABLES and error < nested.MISCONFIGURATION
    memory = architecture.memory_of(vm, area, v)
    if ept and walker.walk(memory, host, address, areas.common(vm, area, areas.OUT)) == walker.NO_MEMORY:
        # what is read where a table has no memory is not said; KVM tells the rights of the entries above
        error &= 7
    if ept and areas.head(vm, area)[areas.ASIDE] & known.EPT_TABLE_WRITE and not host[walker.ACCESSED]:
        # as if EPT had A and D bits
        host[walker.ACCESSED] = EPT_ACCESSED
        found = told(vm, area, v, gva, kind, page, error)
        host[walker.ACCESSED] = 0
        if found:
            return True
    return told(vm, area, v, gva, kind, page, error)


@core
def told(vm, area, v, gva, kind, page, error):
    """Is this error permitted for a fault at this page?"""
    ept = architecture.cpu_of(vm, area, v)[walker.FORMAT] == walker.EPT_TABLES and error < nested.MISCONFIGURATION
    if ept and areas.head(vm, area)[areas.ASIDE] & known.EPT_EMULATED_READ and error & 6:
        return told_as_read(vm, area, v, gva, kind, page, error)
    outcomes = ask(vm, area, v, gva, kind)
    for i in range(outcomes[0]):
        value = outcomes[2 + 2 * i] & ~nested.FINAL
        if outcomes[1 + 2 * i] == nested.NESTED_FAULT and value == nested.nested_fault(page, False, error):
            return True
    return was_permitted(vm, area, v, nested.NESTED_FAULT, nested.nested_fault(page, False, error)) \
        or was_permitted(vm, area, v, nested.NESTED_FAULT, nested.nested_fault(page, True, error))


@core
def told_as_read(vm, area, v, gva, kind, page, error):
    """With `ept-emulated-read` set aside: a violation by this access, or by a read of the same page; bit 0 says nothing."""
    for turn in range(2):
        outcomes = ask(vm, area, v, gva, walker.READ if turn else kind)
        for i in range(outcomes[0]):
            value = outcomes[2 + 2 * i] & ~nested.FINAL
            if outcomes[1 + 2 * i] == nested.NESTED_FAULT and value >> nested.FAULT_PAGE_SHIFT == page \
                    and (value ^ error) & 0x38 == 0 and value & 0xFFFF & (1 if turn else 6):
                return True
    return False


# ---- A and D bits

#: What walks may set anywhere: A and D of an x86 entry (two 4-byte ones in a word) or of an EPT entry.
MARKS = 0x60 | 0x60 << 32 | 0x300

# ---- the hardware's TLB

@core
def current_tag(vm, v):
    """Combined rows belong to a root of Intel's (EP4TA); AMD's ASID is one for all."""
    vcpu = state.vcpu(vm, v)
    return 0 if vcpu.is_amd else (vcpu.hw_root & FRAME_MASK) >> FRAME_SHIFT


@core
def hold(vm, area, v, gva):
    """The walk that has just succeeded (state.hw_walk) may be cached."""
    h = state.hw_walk(vm)
    rows = extra(vm, area, v, LINEAR)
    page = gva & -(1 << vm.page_shift)
    frame = h.hpa >> vm.page_shift
    rights = h.prot | (USER_ROW if state.vcpu(vm, v).cpl == 3 else 0) | current_tag(vm, v) << TAG_SHIFT
    n = rows[0] + 0
    for i in range(n):
        at = 1 + i * ROW_WORDS
        if rows[at] == page and rows[at + 1] == frame and rows[at + 2] == rights:
            return
    if n == MAX_ROWS:
        areas.head(vm, area)[areas.FULL] = 1
        return
    at = 1 + n * ROW_WORDS
    rows[at] = page
    rows[at + 1] = frame
    rows[at + 2] = rights
    rows[0] = n + 1


@core
def flush(vm, area, v):
    """Nothing linear is held."""
    rows = extra(vm, area, v, LINEAR)
    for i in range(1 + ROW_WORDS * rows[0]):
        rows[i] = 0


@core
def flush_address(vm, area, v, gva):
    """Nothing is held of one address."""
    rows = extra(vm, area, v, LINEAR)
    page = gva & -(1 << vm.page_shift)
    i = 0
    while i < rows[0]:
        at = 1 + i * ROW_WORDS
        if rows[at] != page:
            i += 1
            continue
        last = 1 + (rows[0] - 1) * ROW_WORDS
        for k in range(ROW_WORDS):
            rows[at + k] = rows[last + k] + 0
            rows[last + k] = 0
        rows[0] -= 1


@core
def obey(vm, area, vcpu):
    """At an entry: the flushes that KVM asked for."""
    if areas.head(vm, area)[areas.L2_CR0] == 0:
        return
    if vcpu.hw_flush:
        flush(vm, area, vcpu.id)
    for k in range(vcpu.hw_flush_count):
        flush_address(vm, area, vcpu.id, vcpu.hw_flush_gva[k])


@core
def held_wrong(vm, area, v):
    """A linear row of the hardware that nothing permits: its number, or -1.  Of no other registers than those now."""
    cpu = extra(vm, area, v, CPU2)
    rows = extra(vm, area, v, LINEAR)
    cpl = cpu[walker.CPL] + 0
    wrong = -1
    for i in range(rows[0]):
        at = 1 + i * ROW_WORDS
        if rows[at + 2] >> TAG_SHIFT != current_tag(vm, v):
            continue
        cpu[walker.CPL] = 3 if rows[at + 2] & USER_ROW else 0
        for k in range(len(KINDS)):
            bit, kind = KINDS[k]
            if rows[at + 2] & bit and not reaches(vm, area, v, rows[at] + 0, kind, rows[at + 1] + 0):
                wrong = i
    cpu[walker.CPL] = cpl
    return wrong


@core
def row_rights(vm, area, v, i):
    """Address, frame and rights of a linear row."""
    rows = extra(vm, area, v, LINEAR)
    at = 1 + i * ROW_WORDS
    return rows[at] + 0, rows[at + 1] + 0, rows[at + 2] + 0


@core
def digest_rows(vm, area, v):
    """A number for the set of linear rows, whatever their order."""
    rows = extra(vm, area, v, LINEAR)
    total = 0
    for i in range(rows[0]):
        at = 1 + i * ROW_WORDS
        total += (rows[at] * 0x10001 ^ rows[at + 1] * 0x3001) * (2 * rows[at + 2] + 1) & 0xFFFFFFFFFFFF
    return total
