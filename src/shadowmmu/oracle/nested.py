# SPDX-License-Identifier: GPL-2.0-or-later
"""Two translations, one after the other: a nested guest's linear address, by its own tables, then by nested tables.

    ngva --[guest's table]--[guest's table]--> ngpa --[nested tables]--> gpa
                 ^ each table lies at an ngpa, too, and goes through the nested tables

Three CPU-like tables (`walker`) and two sets of rows (`tlb`):

    cpu       the guest's registers; TAG: its VPID or ASID (16 bits)
    host      how nested tables are read.  NPT: CR3 = nCR3, CR4 and EFER of the VMRUN (`npt_host`).  EPT: `ept_host`.
              TAG: what guest-physical rows are tagged with: the ASID (APM vol. 2 15.16), or the EPTP's EP4TA (SDM 29.4.1)
    physical  guest-physical rows, ngpa -> gpa                                               SDM 29.4.1, APM 15.25
    combined  ngva -> gpa, and ngva's upper part -> the gpa of a guest's table, with both rights.  Its tag: both tags

What a CPU may hold grows with `learn` and shrinks with `event` (RULES) and, for what the guest does in its own world,
`guest_event` (tlb.RULES, which nested guests share: SDM 29.4.3.1, first item; APM 15.16: the current ASID only).  `permitted`
gives the outcomes
of an access: those of `tlb.permitted`, and NESTED_FAULT with `nested_fault(page, final, error)`.

Sections are of the SDM, vol. 3 (chapter 29, before 2022: 28), and of the APM, vol. 2.
"""

from ..state import core
from ..x86.bits import CR0_PG, CR4_PCIDE, CR4_PGE, CR4_PKE, CR4_SMAP, FRAME_MASK, NX, PT_DIRTY, PT_GLOBAL, PT_USER, PT_WRITABLE
from . import ept, tlb, walker

#: In an error of EPT: not a violation.
MISCONFIGURATION = ept.MISCONFIGURATION
#: Outcome besides those of `tlb`: the access is refused by the nested tables.
NESTED_FAULT = 8
#: Its value: page of the guest-physical address | FINAL (the access itself, not one to a guest's table) | error code.
FAULT_PAGE_SHIFT, FINAL = 20, 1 << 19

#: In the VALUE of a combined row: what the nested tables permit.
_READ, _WRITE, _EXECUTE = 1 << 9, 1 << 10, 1 << 11
#: Combined tag: the host's above the guest's.
GUEST_TAG_BITS = 16

# ---- what removes rows

#: Which rows of a set: none; of the tag given; of every tag; those of one address under the tag given.
NONE, OF_TAG, ALL, OF_ADDRESS = range(4)
#: The tag given is the guest's (VPID, ASID), or the nested tables' (EP4TA).
OF_GUEST, OF_HOST = 0, 1

(VMRUN, VMRUN_FLUSH_ALL, VMRUN_FLUSH_ASID, INVLPGA, ENTRY_OR_EXIT_VPID_0, INVVPID_ADDRESS, INVVPID_CONTEXT, INVVPID_ALL,
 INVEPT_CONTEXT, INVEPT_ALL, EPT_VIOLATION, NESTED_PAGE_FAULT) = range(12)

RULES = (
    # who,           physical,   combined,   tag given
    (tlb.AMD_ONLY, NONE,       NONE,       OF_GUEST),     # VMRUN
    (tlb.AMD_ONLY, ALL,        ALL,        OF_GUEST),     # VMRUN_FLUSH_ALL
    (tlb.AMD_ONLY, OF_TAG,     OF_TAG,     OF_GUEST),     # VMRUN_FLUSH_ASID
    (tlb.AMD_ONLY, NONE,       OF_ADDRESS, OF_GUEST),     # INVLPGA
    (tlb.INTEL,    NONE,       OF_TAG,     OF_GUEST),     # ENTRY_OR_EXIT_VPID_0
    (tlb.INTEL,    NONE,       OF_ADDRESS, OF_GUEST),     # INVVPID_ADDRESS
    (tlb.INTEL,    NONE,       OF_TAG,     OF_GUEST),     # INVVPID_CONTEXT
    (tlb.INTEL,    NONE,       ALL,        OF_GUEST),     # INVVPID_ALL
    (tlb.INTEL,    OF_TAG,     OF_TAG,     OF_HOST),      # INVEPT_CONTEXT
    (tlb.INTEL,    ALL,        ALL,        OF_HOST),      # INVEPT_ALL
    (tlb.INTEL,    OF_ADDRESS, NONE,       OF_HOST),      # EPT_VIOLATION
    (tlb.NOBODY,   NONE,       NONE,       OF_HOST),      # NESTED_PAGE_FAULT
)

#: Name, and where the rule is said, in the order of RULES.
SOURCES = (
    ("VMRUN, TLB_CONTROL 0", "APM 15.16.1: does nothing; 15.25: a change of nested tables, or of nCR3 under the same ASID, needs "
     "a flush"),
    ("VMRUN, TLB_CONTROL 1", "APM 15.16.1: flushes the entire TLB, all entries, all ASIDs"),
    ("VMRUN, TLB_CONTROL 3", "APM 15.16.1: flushes this guest's entries (its ASID)"),
    ("INVLPGA", "APM 15.16.2: the translation of a linear address under an ASID; nothing is said of guest-physical ones"),
    ("VM entry or exit, VPID 0", "SDM 29.4.3.1: linear and combined mappings of VPID 0, all PCIDs, all EP4TAs; guest-physical "
     "mappings stay"),
    ("INVVPID type 0", "SDM 29.4.3.1: linear and combined mappings of the VPID for the address, all PCIDs, all EP4TAs"),
    ("INVVPID type 1", "SDM 29.4.3.1: all linear and combined mappings of the VPID"),
    ("INVVPID type 2", "SDM 29.4.3.1: all linear and combined mappings of every VPID but 0"),
    ("INVEPT type 1", "SDM 29.4.3.1: all guest-physical and combined mappings of the EP4TA in the descriptor, all VPIDs"),
    ("INVEPT type 2", "SDM 29.4.3.1: guest-physical and combined mappings of all EP4TAs"),
    ("EPT violation", "SDM 29.4.3.1: the guest-physical mappings that the access would use, current EP4TA; also combined "
     "mappings of the linear address if it was the final access (not removed here: the smaller promise is used)"),
    ("#VMEXIT(NPF)", "APM 15.25: nothing is promised"),
)


# ---- making the tables

@core
def npt_host(host, cr3, cr4, efer, asid, level_bits):
    """Nested tables of SVM: formats and NXE as in L1 at its VMRUN; every access is a user access (APM 15.25.5), and PCIDs,
    global pages and protection keys have no meaning (15.25.3, 15.25.6)."""
    host[walker.FORMAT] = walker.BY_REGISTERS
    host[walker.CR0] = CR0_PG
    host[walker.CR3] = cr3
    host[walker.CR4] = cr4 & ~(CR4_PCIDE | CR4_PGE | CR4_PKE | CR4_SMAP)
    host[walker.EFER] = efer
    host[walker.CPL] = 3
    host[walker.TAG] = asid
    walker.prepare(host, level_bits)


@core
def ept_host(host, eptp, level_bits):
    """Nested tables of VMX: all that decides stands in the EPTP and the capabilities.  EP4TA: bits 51:12."""
    host[walker.FORMAT] = walker.EPT_TABLES
    host[walker.CR3] = eptp
    host[walker.CR4] = 0
    host[walker.CPL] = 3
    host[walker.TAG] = ep4ta(eptp)
    walker.prepare(host, level_bits)


@core
def ep4ta(eptp):
    """Tag of an EPTP; never 0."""
    return ((eptp & FRAME_MASK) >> 12) + 1


@core
def combined_tag(cpu, host):
    return host[walker.TAG] << GUEST_TAG_BITS | cpu[walker.TAG]


# ---- the nested half

#: Translations of one ngpa: count, then STATUS, VALUE (as of a row, frame of the page), and of CACHED (may be cached) and WALKED
#: (by the tables, not by a held translation).
TARGET_WORDS, MAX_TARGETS = 3, 24
CACHED, WALKED = 1, 2
#: Scratch: the two translations lists, then the frontiers of two levels (count, then VALUE, 1 if it may be cached, the table's
#: guest-physical address; -1: of a held partial walk).
_TARGETS = 0
_FRONTIER = 1 + TARGET_WORDS * MAX_TARGETS
_MAX_FRONTIER = 24
_FRONTIER_WORDS = 1 + 3 * _MAX_FRONTIER
WORK_WORDS = _FRONTIER + 2 * _FRONTIER_WORDS


@core
def add_target(work, status, value, flags):
    """Note a translation, once."""
    n = work[_TARGETS] + 0
    for i in range(n):
        at = _TARGETS + 1 + i * TARGET_WORDS
        if work[at] == status and work[at + 1] == value:
            work[at + 2] |= flags
            return
    if n < MAX_TARGETS:
        at = _TARGETS + 1 + n * TARGET_WORDS
        work[at] = status
        work[at + 1] = value
        work[at + 2] = flags
        work[_TARGETS] = n + 1


@core
def add_walk(memory, host, status, out, work):
    """Note what a walk of nested tables found."""
    flags = CACHED | WALKED
    for level in range(out[walker.LEVEL], out[walker.TOP] + 1):
        if status != walker.TRANSLATED or not walker.is_accessed(host, out[walker.ENTRY + level - 1]):
            flags = WALKED
    value = tlb.rights_word(out, out[walker.GFN] if status == walker.TRANSLATED else 0)
    if out[walker.DIRTY] and status == walker.TRANSLATED:
        value |= PT_DIRTY
    add_target(work, status, value, flags)


@core
def targets(memory, host, physical, ngpa, out, work):
    """Every translation that the CPU may use for this guest-physical page now: by the tables, by held rows."""
    work[_TARGETS] = 0
    add_walk(memory, host, walker.walk(memory, host, ngpa, out), out, work)
    for i in range(physical[tlb.COUNT]):
        if not tlb.usable(physical, i, memory, host, host[walker.TAG], 0, ngpa):
            continue
        at = tlb.row_at(i)
        kind = physical[at] & tlb.KIND
        if kind == tlb.WALK:
            level, table = tlb.resume(physical, i, out)
            add_walk(memory, host, walker.walk_from(memory, host, ngpa, level, table, out), out, work)
        elif kind == tlb.TRANSLATION or not tlb.in_hole(physical, i, memory, ngpa):
            pages = walker.pages_of(memory, host[walker.MODE], physical[at] & tlb.LEVEL_BITS)
            inside = (ngpa >> memory.page_shift & (pages - 1)) << 12
            add_target(work, walker.TRANSLATED, physical[at + 2] | inside, CACHED)


@core
def refused(host, value, kind):
    """ERROR of an access through a nested translation with this VALUE, or 0."""
    return walker.judge(host, kind, 1 if value & PT_WRITABLE else 0, 1 if value & PT_USER else 0, 1 if value & NX else 0, 0)


@core
def table_kind(host):
    """How a guest's table is accessed: as written (APM 15.25.5; SDM 29.3.3.2 with A and D bits of EPT), else read."""
    if host[walker.MODE] >= walker.EPT4 and not host[walker.ACCESSED]:
        return walker.READ
    return walker.WRITE_ACCESS


@core
def nested_fault(page, final, error):
    """Value of a NESTED_FAULT."""
    return page << FAULT_PAGE_SHIFT | (FINAL if final else 0) | error


@core
def target_fault(host, page, final, kind, status, value, flags):
    """The fault of a nested translation that does not exist (STATUS), or does not permit the access (VALUE); 0: none; -1: the
    CPU looks into the tables instead: for a write by a held translation without D (SDM 4.10.2.3), and on AMD whenever a held one
    forbids the access (APM 5.5.2)."""
    # an access to a guest's table that counts as a write is told as a read, too (SDM table 28-7, note 1)
    both = ept.READ if host[walker.MODE] >= walker.EPT4 and not final and kind == walker.WRITE_ACCESS else 0
    if status != walker.TRANSLATED:
        error = walker.fault_of(host, kind, status)
        return nested_fault(page, final, error | both if error < MISCONFIGURATION else error)
    error = refused(host, value, kind)
    if error:
        error |= both
    if not flags & WALKED and (kind & walker.WRITE_ACCESS and not value & PT_DIRTY or error and host[walker.AMD]):
        return -1
    return nested_fault(page, final, error) if error else 0


# ---- both halves

@core
def frontier(work, parity):
    """Place of the frontier of this level's parity."""
    return _FRONTIER + (_FRONTIER_WORDS if parity & 1 else 0)


@core
def reach_table(work, parity, value, cached, ngpa):
    """A walk may go on in the table of this VALUE."""
    at = frontier(work, parity)
    n = work[at] + 0
    for i in range(n):
        if work[at + 1 + 3 * i] == value and work[at + 3 + 3 * i] == ngpa:
            work[at + 2 + 3 * i] |= cached
            return
    if n < _MAX_FRONTIER:
        work[at + 1 + 3 * n] = value
        work[at + 2 + 3 * n] = cached
        work[at + 3 + 3 * n] = ngpa
        work[at] = n + 1


@core
def enter_table(memory, cpu, host, physical, combined, ngva, level, ngpa, rights, cached, nested_out, work, outcomes):
    """The guest's table at `ngpa`, whose entries are of `level`, is looked up in the nested tables."""
    kind = table_kind(host)
    targets(memory, host, physical, ngpa, nested_out, work)
    for i in range(work[_TARGETS]):
        at = _TARGETS + 1 + i * TARGET_WORDS
        status = work[at] + 0
        value = work[at + 1] + 0
        fault = target_fault(host, ngpa >> memory.page_shift, False, kind, status, value, work[at + 2] + 0)
        if fault > 0:
            tlb.add_outcome(outcomes, NESTED_FAULT, fault)
        if fault:
            continue
        keep = cached & work[at + 2]
        if kind == walker.WRITE_ACCESS and not value & PT_DIRTY:
            keep = 0
        row = rights & ~FRAME_MASK | value & FRAME_MASK | (_WRITE if value & PT_WRITABLE else 0)
        if keep and level < walker.ROOT_LEVEL[cpu[walker.MODE]]:
            tlb.hold(combined, tlb.row_name(combined_tag(cpu, host), tlb.current_pcid(cpu), tlb.WALK, level + 1),
                     tlb.covered_from(memory, cpu, ngva, level + 1), row)
        reach_table(work, level, row, keep, ngpa)


@core
def reach_page(memory, cpu, host, physical, combined, ngva, ngpa, rights, cached, kind, nested_out, work, outcomes):
    """The guest permits the access, to the page at `ngpa`.  rights: VALUE of the guest's half."""
    targets(memory, host, physical, ngpa, nested_out, work)
    for i in range(work[_TARGETS]):
        at = _TARGETS + 1 + i * TARGET_WORDS
        status = work[at] + 0
        value = work[at + 1] + 0
        fault = target_fault(host, ngpa >> memory.page_shift, True, kind, status, value, work[at + 2] + 0)
        if fault > 0:
            tlb.add_outcome(outcomes, NESTED_FAULT, fault)
        elif fault == 0:
            tlb.add_outcome(outcomes, walker.TRANSLATED, (value & FRAME_MASK) >> 12)
        if status == walker.TRANSLATED and cached & work[at + 2]:
            hold_page(memory, cpu, host, combined, ngva, rights, value)


@core
def hold_page(memory, cpu, host, combined, ngva, rights, value):
    """Hold a combined translation of one small page."""
    row = rights & ~(FRAME_MASK | PT_DIRTY) | value & FRAME_MASK | rights & value & PT_DIRTY
    if value & PT_USER:
        row |= _READ
    if value & PT_WRITABLE:
        row |= _WRITE
    if not value & NX:
        row |= _EXECUTE
    tlb.hold(combined, tlb.row_name(combined_tag(cpu, host), tlb.current_pcid(cpu), tlb.TRANSLATION, 1),
             ngva & -(1 << memory.page_shift), row)


@core
def may_be_marked(memory, host, physical, value, ngpa, nested_out, work, outcomes):
    """A guest's entry gets A or D where its table was only read (EPT without A and D bits): a write, which may be a violation.
    False: the walk does not go on."""
    if table_kind(host) == walker.WRITE_ACCESS or value & _WRITE:
        return True
    if ngpa < 0:
        # a held partial walk without that right: the CPU walks from CR3
        return False
    possible = False
    targets(memory, host, physical, ngpa, nested_out, work)
    for i in range(work[_TARGETS]):
        at = _TARGETS + 1 + i * TARGET_WORDS
        status = work[at] + 0
        target = work[at + 1] + 0
        fault = target_fault(host, ngpa >> memory.page_shift, False, walker.WRITE_ACCESS, status, target, work[at + 2] + 0)
        if fault > 0:
            # whether the write of a bit is told as a read, too, is not said
            tlb.add_outcome(outcomes, NESTED_FAULT, fault)
            tlb.add_outcome(outcomes, NESTED_FAULT, fault ^ ept.READ)
        elif fault == 0 and (target ^ value) & FRAME_MASK == 0:
            possible = True
    return possible


@core
def visit(memory, cpu, host, physical, combined, ngva, level, value, cached, ngpa, kind, out, nested_out, work, outcomes):
    """One entry of a guest's table, which lies at `ngpa`: where a walk ends, or goes on to."""
    _, table = tlb.resume_value(value, level + 1, out)
    status = walker.step(memory, cpu, ngva, level, table, out)
    if status != walker.TABLE and status != walker.TRANSLATED:
        tlb.add_outcome(outcomes, walker.DENIED, walker.fault_of(cpu, kind, status))
        return
    entry = out[walker.ENTRY + level - 1] + 0
    if not walker.is_accessed(cpu, entry):
        cached = 0
    rights = tlb.rights_word(out, 0)
    if status == walker.TABLE:
        if not walker.is_accessed(cpu, entry) \
                and not may_be_marked(memory, host, physical, value, ngpa, nested_out, work, outcomes):
            return
        enter_table(memory, cpu, host, physical, combined, ngva, level - 1, ((entry & FRAME_MASK) >> 12) << memory.page_shift,
                    rights, cached, nested_out, work, outcomes)
        return
    error = walker.judge(cpu, kind, out[walker.WRITE], out[walker.USER], out[walker.NO_EXECUTE], out[walker.KEY])
    if error:
        tlb.add_outcome(outcomes, walker.DENIED, error)
    if out[walker.DIRTY]:
        rights |= PT_DIRTY
    if out[walker.GLOBAL] and cpu[walker.CR4] & CR4_PGE:
        rights |= PT_GLOBAL
    rights |= out[walker.KEY] << tlb.PKEY_SHIFT
    page = (out[walker.GFN] << memory.page_shift) + (ngva & ((1 << memory.page_shift) - 1))
    # (an access that the guest refuses need not mark its last entry)
    marked = walker.is_accessed(cpu, entry) and (out[walker.DIRTY] or not kind & walker.WRITE_ACCESS)
    if not error and not marked \
            and not may_be_marked(memory, host, physical, value, ngpa, nested_out, work, outcomes):
        return
    if error:
        learn_page(memory, cpu, host, physical, combined, ngva, page, rights, cached, nested_out, work)
    else:
        reach_page(memory, cpu, host, physical, combined, ngva, page, rights, cached, kind, nested_out, work, outcomes)


@core
def learn_page(memory, cpu, host, physical, combined, ngva, ngpa, rights, cached, nested_out, work):
    """The guest refuses this access; the translation may be cached for others."""
    targets(memory, host, physical, ngpa, nested_out, work)
    for i in range(work[_TARGETS]):
        at = _TARGETS + 1 + i * TARGET_WORDS
        if work[at] == walker.TRANSLATED and cached & work[at + 2]:
            hold_page(memory, cpu, host, combined, ngva, rights, work[at + 1] + 0)


@core
def resume_level(memory, cpu, host, combined, ngva, level, work):
    """Held partial walks of `ngva` whose next entry is of `level`."""
    tag = combined_tag(cpu, host)
    pcid = tlb.current_pcid(cpu)
    for i in range(combined[tlb.COUNT]):
        at = tlb.row_at(i)
        if combined[at] == tlb.row_name(tag, pcid, tlb.WALK, level + 1) \
                and combined[at + 1] == tlb.covered_from(memory, cpu, ngva, level + 1):
            reach_table(work, level, combined[at + 2] + 0, 1, -1)


@core
def permitted(memory, cpu, host, physical, combined, ngva, kind, out, nested_out, work, outcomes):
    """The set of outcomes that the architecture permits for one access of the nested guest now; both sets of rows learn.

    out, nested_out: scratch of walker.OUT_WORDS; work: of WORK_WORDS."""
    outcomes[0] = 0
    if not walker.is_canonical(memory, cpu, ngva):
        tlb.add_outcome(outcomes, walker.NONCANONICAL, 0)
        return
    ngva = tlb.linear(memory, cpu, ngva)
    if cpu[walker.MODE] == walker.NO_PAGING:
        tlb.learn(memory, host, physical, ngva, nested_out)
        everything = PT_WRITABLE | PT_USER | PT_DIRTY
        reach_page(memory, cpu, host, physical, combined, ngva, ngva, everything, 1, kind, nested_out, work, outcomes)
        rows_outcomes(memory, cpu, host, combined, ngva, kind, outcomes)
        return
    walker.reset(out)
    top, table = walker.start(memory, cpu, ngva, out)
    work[frontier(work, 0)] = 0
    work[frontier(work, 1)] = 0
    if table < 0:
        tlb.add_outcome(outcomes, walker.DENIED, walker.error_bits(cpu, kind))
    else:
        ngpa = table << memory.page_shift
        tlb.learn(memory, host, physical, ngpa, nested_out)
        enter_table(memory, cpu, host, physical, combined, ngva, top, ngpa, PT_WRITABLE | PT_USER, 1, nested_out, work, outcomes)
    for level in range(top, 0, -1):
        resume_level(memory, cpu, host, combined, ngva, level, work)
        here = frontier(work, level)
        for i in range(work[here]):
            at = here + 1 + 3 * i
            learn_below(memory, cpu, host, physical, ngva, level, work[at] + 0, out, nested_out)
            visit(memory, cpu, host, physical, combined, ngva, level, work[at] + 0, work[at + 1] + 0, work[at + 2] + 0, kind, out,
                  nested_out, work, outcomes)
        work[here] = 0
    rows_outcomes(memory, cpu, host, combined, ngva, kind, outcomes)


@core
def learn_below(memory, cpu, host, physical, ngva, level, value, out, nested_out):
    """The nested translation of what the entry of this table refers to may be cached, too."""
    _, table = tlb.resume_value(value, level + 1, out)
    status = walker.step(memory, cpu, ngva, level, table, out)
    if status == walker.TABLE:
        tlb.learn(memory, host, physical, ((out[walker.ENTRY + level - 1] & FRAME_MASK) >> 12) << memory.page_shift, nested_out)
    elif status == walker.TRANSLATED:
        tlb.learn(memory, host, physical, out[walker.GFN] << memory.page_shift, nested_out)


@core
def rows_outcomes(memory, cpu, host, combined, ngva, kind, outcomes):
    """Outcomes by held combined translations.  One that the guest's half forbids: as `tlb.row_outcome`.  One that the nested
    half forbids, or that lacks D for a write: the CPU walks."""
    needed = _EXECUTE if kind & walker.FETCH else _WRITE if kind & walker.WRITE_ACCESS else _READ
    tag = combined_tag(cpu, host)
    pcid = tlb.current_pcid(cpu)
    for i in range(combined[tlb.COUNT]):
        at = tlb.row_at(i)
        if combined[at] & tlb.KIND != tlb.TRANSLATION or not tlb.usable(combined, i, memory, cpu, tag, pcid, ngva):
            continue
        value = combined[at + 2]
        if cpu[walker.MODE] != walker.NO_PAGING:
            error = walker.judge(cpu, kind, 1 if value & PT_WRITABLE else 0, 1 if value & PT_USER else 0,
                                 1 if value & NX else 0, value >> tlb.PKEY_SHIFT & tlb.PKEY_MASK)
            if error:
                if not cpu[walker.AMD]:
                    tlb.add_outcome(outcomes, walker.DENIED, error)
                continue
        if value & needed and (value & PT_DIRTY or not kind & walker.WRITE_ACCESS):
            tlb.add_outcome(outcomes, walker.TRANSLATED, (value & FRAME_MASK) >> 12)


@core
def learn(memory, cpu, host, physical, combined, ngva, out, nested_out, work, outcomes):
    """Everything that the CPU may have cached for `ngva` at this moment."""
    permitted(memory, cpu, host, physical, combined, ngva, walker.READ, out, nested_out, work, outcomes)


# ---- shrinking

@core
def drop(tlb_rows, which, tag, whose, address):
    """Remove the combined rows of a rule: see NONE ... OF_ADDRESS."""
    i = 0
    while which != NONE and i < tlb_rows[tlb.COUNT]:
        at = tlb.row_at(i)
        full = tlb_rows[at] >> tlb.TAG_SHIFT
        own = full >> GUEST_TAG_BITS if whose == OF_HOST else full & ((1 << GUEST_TAG_BITS) - 1)
        gone = which == ALL or own == tag
        if gone and which == OF_ADDRESS:
            gone = tlb_rows[at] & tlb.KIND == tlb.TRANSLATION and tlb_rows[at + 1] == address
        if gone:
            tlb.remove(tlb_rows, i)
        else:
            i += 1


@core
def event(memory, host, physical, combined, what, tag, address, out):
    """Remove what `what` (RULES) must remove.  tag: of the guest or of the nested tables, as the rule says; address: linear, or
    guest-physical for an EPT violation."""
    who, of_physical, of_combined, whose = RULES[what]
    if not who & (tlb.AMD_ONLY if host[walker.AMD] else tlb.INTEL):
        return
    if of_physical == ALL:
        tlb.drop_tag(physical, -1)
    elif of_physical == OF_TAG:
        tlb.drop_tag(physical, tag)
    elif of_physical == OF_ADDRESS:
        tlb.invalidate(memory, host, physical, tlb.PAGE_FAULT, 0, address, out)
    drop(combined, of_combined, tag, whose, address & -(1 << memory.page_shift))


@core
def guest_event(memory, cpu, combined, what, pcid, gva, out):
    """What the guest does in its own world (tlb.RULES): its combined rows under every EP4TA; guest-physical rows stay."""
    guest = cpu[walker.TAG] + 0
    done = -1
    i = 0
    while i < combined[tlb.COUNT]:
        full = combined[tlb.row_at(i)] >> tlb.TAG_SHIFT
        if full > done and full & ((1 << GUEST_TAG_BITS) - 1) == guest:
            cpu[walker.TAG] = full
            tlb.invalidate(memory, cpu, combined, what, pcid, gva, out)
            done = full
            i = 0
        else:
            i += 1
    cpu[walker.TAG] = guest
