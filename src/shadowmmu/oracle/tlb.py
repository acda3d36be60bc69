# SPDX-License-Identifier: GPL-2.0-or-later
"""What a CPU may still hold: translations and partial walks, per PCID, and what removes them.

A CPU may walk at any time for any linear address (prefetch, speculation; SDM 4.10.2.3, 4.10.3), so what it may hold is
a *set* that grows with every moment and shrinks with every invalidation:

    tables at this moment --learn--> rows of the table below --invalidate(event)--> fewer rows
                                              |
         access now: walks from CR3 + walks from held partial walks + held translations --> set of permitted outcomes

    row = NAME                               ADDRESS                        VALUE
          tag | pcid | kind | level          first linear address covered   frame << 12 | W U D G | key | NX

    TRANSLATION  a page of `level` (1: smallest): TLB entry                              SDM 4.10.2
    WALK         the entry of `level` on the way, its table, the rights so far:          SDM 4.10.3
                 PML5-, PML4-, PDPTE-, PDE-cache entry
    PIECES       a large translation that was cached as smaller ones, without HOLEs      SDM 4.10.2.3

When a row may join: P=1, no reserved bit, A=1 in every entry used (SDM 4.10.2.3, 4.10.3.1; KVM's prefetch obeys this,
too). Rights are judged when an access uses the row, with the registers of that moment; only G is decided when the row
is made.

Use: call `learn` for every linear page of interest before each change of guest memory that may hold tables and before
each change of a control register (between changes nothing new can join); then `invalidate` with the event.  `permitted`
and `access` call `learn` themselves.

The state is a table of signed 64-bit words: header, then rows in ascending order and zeros, so equal sets are equal
words and can be copied and hashed.  A full table sets OVERFLOW and stays as it is; `require_room` turns that into an
error.

The CPU table is that of `walker`; `cpu[TAG]` tells worlds apart (VPID, ASID, EPTP): rows of other tags are neither used nor
removed (but for `drop_tag`).  Translations of nested paging, and what removes them: `oracle.nested`.  Sections are of SDM vol.
3 and APM vol. 2.
"""

from collections import namedtuple

from ..state import core
from ..x86.bits import (
    CR0_PG,
    CR3_NOFLUSH,
    CR3_PCID_MASK,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMEP,
    FRAME_MASK,
    NX,
    PKEY_MASK,
    PKEY_SHIFT,
    PT_DIRTY,
    PT_GLOBAL,
    PT_USER,
    PT_WRITABLE,
)
from . import walker
from .walker import (
    AMD,
    CR3,
    CR4,
    DENIED,
    DIRTY,
    ENTRY,
    ERROR,
    GFN,
    GLOBAL,
    KEY,
    LEVEL,
    MODE,
    NO_EXECUTE,
    NO_PAGING,
    NONCANONICAL,
    STATUS,
    TABLE,
    TAG,
    TRANSLATED,
    USER,
    WRITE,
)

# ---- the table

#: Header: rows in use, rows that fit, 1 if a row did not fit.
COUNT, CAPACITY, OVERFLOW, FIRST_ROW = range(4)
ROW_WORDS = 3

LEVEL_BITS = 7
TRANSLATION, WALK, PIECES, HOLE = 0 << 3, 1 << 3, 2 << 3, 3 << 3
KIND = 3 << 3
PCID_SHIFT, TAG_SHIFT = 8, 24
_KEY_BITS = PKEY_MASK << PKEY_SHIFT

# ---- what removes rows

#: Vendors whose manual demands it.
NOBODY, INTEL, AMD_ONLY, BOTH = 0, 1, 2, 3
#: PCIDs concerned: the one named by the operation, or every one.
GIVEN, EVERY = 0, 1
#: Linear pages concerned: the one that contains the address, or every one.
PAGE, ALL_PAGES = 0, 1
#: Global translations concerned: none; those made under the PCID; all.
KEEP_GLOBAL, OWN_GLOBAL, ALL_GLOBAL = 0, 1, 2
#: Partial walks concerned: those that the address would use, or all of the PCID.
SAME_WALK, ALL_WALKS = 0, 1

#: Events.
(MOV_CR3, MOV_CR3_NOFLUSH, INVLPG, INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL, INVPCID_ALL_NONGLOBAL, PG_CLEARED,
 PG_SET, PGE_TOGGLED, PCIDE_CLEARED, PCIDE_SET, PAE_TOGGLED, PSE_TOGGLED, SMEP_SET, PAGE_FAULT, INIT, SMM, WRMSR_EFER,
 OTHER_BIT) = range(20)

RULES = (
    # who,      PCIDs, pages,     global,       walks
    (BOTH,     GIVEN, ALL_PAGES, KEEP_GLOBAL, ALL_WALKS),     # MOV_CR3
    (NOBODY,   GIVEN, ALL_PAGES, KEEP_GLOBAL, ALL_WALKS),     # MOV_CR3_NOFLUSH
    (BOTH,     GIVEN, PAGE,      ALL_GLOBAL,  ALL_WALKS),     # INVLPG
    (BOTH,     GIVEN, PAGE,      KEEP_GLOBAL, SAME_WALK),     # INVPCID_ADDRESS
    (BOTH,     GIVEN, ALL_PAGES, KEEP_GLOBAL, ALL_WALKS),     # INVPCID_CONTEXT
    (BOTH,     EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # INVPCID_ALL
    (BOTH,     EVERY, ALL_PAGES, KEEP_GLOBAL, ALL_WALKS),     # INVPCID_ALL_NONGLOBAL
    (BOTH,     EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # PG_CLEARED
    (AMD_ONLY, EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # PG_SET
    (BOTH,     EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # PGE_TOGGLED
    (BOTH,     EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # PCIDE_CLEARED
    (NOBODY,   EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # PCIDE_SET
    (BOTH,     GIVEN, ALL_PAGES, OWN_GLOBAL,  ALL_WALKS),     # PAE_TOGGLED
    (AMD_ONLY, EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # PSE_TOGGLED
    (INTEL,    GIVEN, ALL_PAGES, OWN_GLOBAL,  ALL_WALKS),     # SMEP_SET
    (INTEL,    GIVEN, PAGE,      OWN_GLOBAL,  SAME_WALK),     # PAGE_FAULT
    (BOTH,     EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # INIT
    (AMD_ONLY, EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # SMM
    (NOBODY,   EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # WRMSR_EFER
    (NOBODY,   EVERY, ALL_PAGES, ALL_GLOBAL,  ALL_WALKS),     # OTHER_BIT
)

#: Name, and where the rule is said, in the order of RULES.
SOURCES = (
    ("MOV CR3", "SDM 4.10.4.1: with PCIDE=0 everything of PCID 0 but global translations, with PCIDE=1 and bit 63 = 0 "
     "that "
     "of the PCID in bits 11:0; APM 5.5.1, 5.5.2"),
    ("MOV CR3 with bit 63 (PCIDE=1)", "SDM 4.10.4.1: not required to invalidate anything; APM 5.5.1"),
    ("INVLPG", "SDM 4.10.4.1: the page in the current PCID, its global translations of any PCID, and all "
     "paging-structure "
     "caches of the current PCID whatever their address; APM 5.5.2, and 3.1.7 (EFER.TCE = 0) for the upper levels"),
    ("INVPCID type 0", "SDM 4.10.4.1: mappings, except global, of that PCID that would translate the address; APM "
     "5.5.2"),
    ("INVPCID type 1", "SDM 4.10.4.1: all of that PCID except global translations; APM 5.5.2"),
    ("INVPCID type 2", "SDM 4.10.4.1: all PCIDs including global translations; APM 5.5.2"),
    ("INVPCID type 3", "SDM 4.10.4.1: all PCIDs except global translations; APM 5.5.2"),
    ("CR0.PG 1 -> 0", "SDM 4.10.4.1: everything; APM 5.5.2 (modifying CR0.PG)"),
    ("CR0.PG 0 -> 1", "APM 5.5.2: modifying CR0.PG; SDM 4.10.4.1 names only 1 -> 0"),
    ("CR4.PGE changed", "SDM 4.10.4.1: everything, global translations and all PCIDs included; APM 5.5.2"),
    ("CR4.PCIDE 1 -> 0", "SDM 4.10.4.1: everything; APM 5.5.1"),
    ("CR4.PCIDE 0 -> 1", "SDM 4.10.4.1 names only 1 -> 0"),
    ("CR4.PAE changed",
     "SDM 4.10.4.1: everything of the current PCID; APM 5.5.2 (everything; the smaller promise is used)"),
    ("CR4.PSE changed", "APM 5.5.2; SDM 4.10.4.1 does not name it"),
    ("CR4.SMEP 0 -> 1", "SDM 4.10.4.1: everything of the current PCID; APM 5.5.2 does not name it"),
    ("#PF", "SDM 4.10.4.1: TLB entries of that page and paging-structure-cache entries that the address would use, "
     "current "
     "PCID; the APM promises nothing, but see `permitted` for 5.5.2 \"table entry upgrades\""),
    ("INIT", "SDM table 10-1 (TLBs: invalid), APM 5.5.2 (external initialization)"),
    ("SMI, RSM", "APM 5.5.2; the SDM promises nothing"),
    ("WRMSR EFER", "SDM 4.10.4.1 and APM 5.5.2 do not name it: NXE judges at access time"),
    ("CR0.WP, CR4.SMAP, PKE, SMEP 1 -> 0, WRPKRU, EFLAGS.AC", "not named in SDM 4.10.4.1, APM 5.5.2"),
)


class OracleOverflow(Exception):
    """The set of permitted translations has more rows than the table; make it larger."""


Row = namedtuple("Row", "kind level pcid tag address frame write user dirty is_global no_execute key")
_KINDS = {TRANSLATION: "translation", WALK: "walk", PIECES: "pieces", HOLE: "hole"}


def words_for(rows):
    """Words of a table with room for so many rows."""
    return FIRST_ROW + rows * ROW_WORDS


def require_room(tlb):
    """Raise OracleOverflow if a row did not fit since `clear`."""
    if tlb[OVERFLOW]:
        raise OracleOverflow(f"more than {int(tlb[CAPACITY])} permitted translations and partial walks")


def rows(tlb):
    """The table as a list of Row, for people.  `frame`: of the page, of the next table for a walk."""
    out = []
    for i in range(int(tlb[COUNT])):
        name, address, value = (int(tlb[FIRST_ROW + i * ROW_WORDS + k]) for k in range(ROW_WORDS))
        out.append(Row(_KINDS[name & KIND], name & LEVEL_BITS, name >> PCID_SHIFT & 0xFFF, name >> TAG_SHIFT, address,
                       (value & FRAME_MASK) >> 12, bool(value & PT_WRITABLE), bool(value & PT_USER),
                       bool(value & PT_DIRTY), bool(value & PT_GLOBAL), value < 0, value >> PKEY_SHIFT & PKEY_MASK))
    return out


@core
def clear(tlb, capacity):
    """An empty table for `capacity` rows; the table must have `words_for(capacity)` words."""
    for i in range(FIRST_ROW + capacity * ROW_WORDS):
        tlb[i] = 0
    tlb[CAPACITY] = capacity


# ---- rows

@core
def row_at(i):
    return FIRST_ROW + i * ROW_WORDS


@core
def compare_row(tlb, i, name, address, value):
    """Sign of row i minus the given row."""
    at = row_at(i)
    if tlb[at] != name:
        return -1 if tlb[at] < name else 1
    if tlb[at + 1] != address:
        return -1 if tlb[at + 1] < address else 1
    if tlb[at + 2] != value:
        return -1 if tlb[at + 2] < value else 1
    return 0


@core
def place_of(tlb, name, address, value):
    """Index of the first row that is not smaller."""
    low = 0
    high = tlb[COUNT] + 0
    while low < high:
        middle = (low + high) >> 1
        if compare_row(tlb, middle, name, address, value) < 0:
            low = middle + 1
        else:
            high = middle
    return low


@core
def holds(tlb, name, address, value):
    """Is this row in the table?"""
    i = place_of(tlb, name, address, value)
    return i < tlb[COUNT] and compare_row(tlb, i, name, address, value) == 0


@core
def hold(tlb, name, address, value):
    """Add a row, once."""
    i = place_of(tlb, name, address, value)
    count = tlb[COUNT] + 0
    if i < count and compare_row(tlb, i, name, address, value) == 0:
        return
    if count == tlb[CAPACITY]:
        tlb[OVERFLOW] = 1
        return
    at = row_at(i)
    last = row_at(count)
    while last > at:
        last -= 1
        tlb[last + ROW_WORDS] = tlb[last]
    tlb[at] = name
    tlb[at + 1] = address
    tlb[at + 2] = value
    tlb[COUNT] = count + 1


@core
def remove(tlb, i):
    """Take row i out; the freed words become zero."""
    count = tlb[COUNT] - 1
    end = row_at(count)
    for at in range(row_at(i), end):
        tlb[at] = tlb[at + ROW_WORDS]
    for at in range(end, end + ROW_WORDS):
        tlb[at] = 0
    tlb[COUNT] = count


@core
def row_name(tag, pcid, kind, level):
    return tag << TAG_SHIFT | pcid << PCID_SHIFT | kind | level


@core
def name_pcid(name):
    return name >> PCID_SHIFT & 0xFFF


# ---- addresses

@core
def current_pcid(cpu):
    """SDM 4.10.1: bits 11:0 of CR3 with CR4.PCIDE, else 0."""
    return cpu[CR3] & CR3_PCID_MASK if cpu[CR4] & CR4_PCIDE else 0


@core
def linear(memory, cpu, gva):
    """The address as it is looked up: 32 bits outside 64-bit paging."""
    if cpu[MODE] < walker.LEVEL4 and memory.page_shift == 12:
        return gva & 0xFFFFFFFF
    return gva


@core
def covered_from(memory, cpu, gva, level):
    """First address that an entry of `level` for `gva` covers."""
    shift = memory.page_shift + walker.index_bits(memory, cpu[MODE]) * (level - 1)
    return gva & -(1 << shift)


@core
def usable(tlb, i, memory, cpu, tag, pcid, gva):
    """Row i lies in this world and covers `gva`; a walk, or a translation that is not global, has this PCID."""
    name = tlb[row_at(i)]
    if name >> TAG_SHIFT != tag or name & KIND == HOLE:
        return False
    if name_pcid(name) != pcid and (name & KIND == WALK or not tlb[row_at(i) + 2] & PT_GLOBAL):
        return False
    return tlb[row_at(i) + 1] == covered_from(memory, cpu, gva, name & LEVEL_BITS)


@core
def in_hole(tlb, i, memory, gva):
    """The piece of row i (PIECES) for `gva` has been invalidated."""
    at = row_at(i)
    name = tlb[at]
    return holds(tlb, name & ~KIND | HOLE, gva & -(1 << memory.page_shift), tlb[at + 2])


# ---- growing

@core
def rights_word(out, frame):
    """Frame and rights of the path in `out` as the VALUE of a row."""
    value = frame << 12
    if out[WRITE]:
        value |= PT_WRITABLE
    if out[USER]:
        value |= PT_USER
    if out[NO_EXECUTE]:
        value |= NX
    return value


@core
def resume(tlb, i, out):
    """Start a walk in `out` with the rights of row i (WALK): level and gfn of the next table."""
    at = row_at(i)
    return resume_value(tlb[at + 2] + 0, tlb[at] & LEVEL_BITS, out)


@core
def resume_value(value, level, out):
    """The same from the VALUE of a row of this level."""
    walker.reset(out)
    out[WRITE] = 1 if value & PT_WRITABLE else 0
    out[USER] = 1 if value & PT_USER else 0
    out[NO_EXECUTE] = 1 if value & NX else 0
    return level - 1, (value & FRAME_MASK) >> 12


@core
def hold_entry(memory, cpu, tlb, gva, level, status, out):
    """Hold what `step` found at `level`: a translation or a partial walk.  The VALUE of the row."""
    tag = cpu[TAG]
    pcid = current_pcid(cpu)
    address = covered_from(memory, cpu, gva, level)
    if status == TABLE:
        value = rights_word(out, (out[ENTRY + level - 1] & FRAME_MASK) >> 12)
        hold(tlb, row_name(tag, pcid, WALK, level), address, value)
        return value
    value = rights_word(out, out[GFN] & -walker.pages_of(memory, cpu[MODE], level))
    value |= out[KEY] << PKEY_SHIFT
    if out[DIRTY]:
        value |= PT_DIRTY
    if out[GLOBAL] and cpu[CR4] & CR4_PGE:
        value |= PT_GLOBAL
    hold(tlb, row_name(tag, pcid, TRANSLATION, level), address, value)
    return value


@core
def explore(memory, cpu, tlb, gva, level, table, out):
    """Add what a walk from this table may leave behind (SDM 4.10.2.3, 4.10.3.1): stops where A = 0."""
    while True:
        status = walker.step(memory, cpu, gva, level, table, out)
        if (status != TABLE and status != TRANSLATED) or not walker.is_accessed(cpu, out[ENTRY + level - 1]):
            return
        hold_entry(memory, cpu, tlb, gva, level, status, out)
        if status == TRANSLATED:
            return
        table = (out[ENTRY + level - 1] & FRAME_MASK) >> 12
        level -= 1


@core
def common_level(memory, cpu, gva, previous, out):
    """Lowest level at which the walk for `previous`, in `out`, held a partial walk that `gva` uses, too; 0 if there is none."""
    for level in range(out[LEVEL] + 1, out[walker.TOP] + 1):
        if out[walker.PATH + level - 1] and covered_from(memory, cpu, gva, level) == covered_from(memory, cpu, previous, level):
            return level
    return 0


@core
def explore_from_cr3(memory, cpu, tlb, gva, previous, out):
    """The walk from CR3 to its end, as `walker.walk` leaves it in `out`, and what it may leave behind; PATH: its partial
    walks.  previous: as in `learn_next`."""
    common = common_level(memory, cpu, gva, previous, out) if previous >= 0 else 0
    if common:
        top = out[walker.TOP] + 0
        level, table = resume_value(out[walker.PATH + common - 1] + 0, common, out)
        out[walker.TOP] = top
        for i in range(level):
            out[walker.PATH + i] = 0
    else:
        walker.reset(out)
        for i in range(5):
            out[walker.PATH + i] = 0
        level, table = walker.start(memory, cpu, gva, out)
        if table < 0:
            out[STATUS] = walker.NOT_PRESENT
            return
        out[walker.TOP] = level
    accessed = True
    while True:
        status = walker.step(memory, cpu, gva, level, table, out)
        if (status == TABLE or status == TRANSLATED) and accessed:
            if walker.is_accessed(cpu, out[ENTRY + level - 1]):
                out[walker.PATH + level - 1] = hold_entry(memory, cpu, tlb, gva, level, status, out)
            else:
                accessed = False
        if status != TABLE:
            out[STATUS] = status
            return
        table = (out[ENTRY + level - 1] & FRAME_MASK) >> 12
        level -= 1


@core
def learn(memory, cpu, tlb, gva, out):
    """`learn_next` after nothing."""
    return learn_next(memory, cpu, tlb, gva, -1, out)


@core
def learn_next(memory, cpu, tlb, gva, previous, out):
    """Everything that the CPU may have cached for `gva` at this moment: from CR3, and from every held partial walk.

    memory, cpu, out: as in `walker`; `out` holds the walk from CR3 afterwards.  A held partial walk on the way of that walk
    (same table, same rights) leads to nothing else and is passed over.  False: only the walk from CR3 was done, so nothing
    but its entries decided.

    previous: address for which this has just been done, `out` as it was left, and nothing changed since (-1: none): what both
    walks read is not read again.
    """
    if cpu[MODE] == NO_PAGING or not walker.is_canonical(memory, cpu, gva):
        return False
    gva = linear(memory, cpu, gva)
    tag = cpu[TAG]
    pcid = current_pcid(cpu)
    explore_from_cr3(memory, cpu, tlb, gva, linear(memory, cpu, previous) if previous >= 0 else -1, out)
    elsewhere = False
    # partial walks of this world stand together; a row that joins meanwhile may push row i up: then it is met twice, never missed
    i = place_of(tlb, row_name(tag, pcid, WALK, 0), 0, 0)
    end = row_name(tag, pcid, PIECES, 0)
    while i < tlb[COUNT] and tlb[row_at(i)] < end:
        at = row_at(i)
        if tlb[at + 2] != out[walker.PATH + (tlb[at] & LEVEL_BITS) - 1] \
                and usable(tlb, i, memory, cpu, tag, pcid, gva):
            level, table = resume(tlb, i, out)
            explore(memory, cpu, tlb, gva, level, table, out)
            elsewhere = True
        i += 1
    if elsewhere:
        walker.walk(memory, cpu, gva, out)
    return elsewhere


# ---- shrinking

@core
def still_specified(memory, cpu, pcid, gva, level, out):
    """Do the tables now translate `gva` by a page of at least `level`?  Only then an invalidation of one address is
    sure to hit all pieces of a large translation (SDM 4.10.2.3: "all TLB entries corresponding to the translation
    specified by the paging structures"); of another PCID the CPU cannot know the tables."""
    if pcid != current_pcid(cpu) or cpu[MODE] == NO_PAGING:
        return False
    return walker.walk(memory, cpu, gva, out) == TRANSLATED and out[LEVEL] >= level


@core
def drop_holes(tlb, name, address, value, end):
    """Forget the holes of a translation that covers address .. end-1."""
    i = 0
    while i < tlb[COUNT]:
        at = row_at(i)
        if tlb[at] == name & ~KIND | HOLE and tlb[at + 2] == value and address <= tlb[at + 1] < end:
            remove(tlb, i)
        else:
            i += 1


@core
def break_up(memory, cpu, tlb, i, gva):
    """Row i, a large translation, may remain in pieces, except the piece for `gva`."""
    at = row_at(i)
    name = tlb[at] + 0
    address = tlb[at + 1] + 0
    value = tlb[at + 2] + 0
    pieces = name & ~KIND | PIECES
    if name & KIND == TRANSLATION:
        remove(tlb, i)
        if holds(tlb, pieces, address, value):
            # all the pieces that an earlier invalidation took may have come back
            drop_holes(tlb, name, address, value,
                       address + (walker.pages_of(memory, cpu[MODE], name & LEVEL_BITS) << memory.page_shift))
        hold(tlb, pieces, address, value)
    hold(tlb, name & ~KIND | HOLE, gva & -(1 << memory.page_shift), value)


@core
def global_concerned(rule, same_pcid):
    return rule == ALL_GLOBAL or (rule == OWN_GLOBAL and same_pcid)


@core
def concerned(tlb, i, memory, cpu, event, pcid, gva):
    """Does the event remove row i?  (HOLE rows go with what they belong to.)"""
    _, pcids, pages, globals_, walks = RULES[event]
    at = row_at(i)
    name = tlb[at]
    if name >> TAG_SHIFT != cpu[TAG]:
        return False
    same_pcid = pcids == EVERY or name_pcid(name) == pcid
    if name & KIND == WALK:
        if not same_pcid:
            return False
        if pages == ALL_PAGES or walks == ALL_WALKS:
            return True
    elif tlb[at + 2] & PT_GLOBAL:
        if not global_concerned(globals_, same_pcid):
            return False
    elif not same_pcid:
        return False
    if pages == ALL_PAGES:
        return True
    return name & KIND != HOLE and tlb[at + 1] == covered_from(memory, cpu, gva, name & LEVEL_BITS)


@core
def invalidate(memory, cpu, tlb, event, pcid, gva, out):
    """Remove what `event` must remove.

    pcid: for MOV_CR3, INVPCID_* the PCID that the operation names; else `current_pcid(cpu)`.  gva: for events of one
    page.  cpu: registers *before* the event for PG_CLEARED and for CR4 changes (the PCID that was current).
    out: scratch.  Call `learn` for the pages of interest first when the event also changes what is reachable.
    """
    who = RULES[event][0]
    if not who & (AMD_ONLY if cpu[AMD] else INTEL):
        return
    gva = linear(memory, cpu, gva)
    one_page = RULES[event][2] == PAGE
    i = 0
    while i < tlb[COUNT]:
        if not concerned(tlb, i, memory, cpu, event, pcid, gva):
            i += 1
            continue
        at = row_at(i)
        name = tlb[at] + 0
        level = name & LEVEL_BITS
        if not one_page or name & KIND == WALK or level == 1:
            remove(tlb, i)
            continue
        if still_specified(memory, cpu, pcid, gva, level, out):
            address = tlb[at + 1] + 0
            value = tlb[at + 2] + 0
            remove(tlb, i)
            if name & KIND == PIECES:
                drop_holes(tlb, name, address, value,
                           address + (walker.pages_of(memory, cpu[MODE], level) << memory.page_shift))
                i = 0
        elif name & KIND == TRANSLATION:
            break_up(memory, cpu, tlb, i, gva)
            i = 0
        else:
            if not in_hole(tlb, i, memory, gva):
                break_up(memory, cpu, tlb, i, gva)
                i = 0
            else:
                i += 1


@core
def drop_tag(tlb, tag):
    """Remove every row of one world; -1: of all."""
    i = 0
    while i < tlb[COUNT]:
        if tag < 0 or tlb[row_at(i)] >> TAG_SHIFT == tag:
            remove(tlb, i)
        else:
            i += 1


@core
def mov_cr3(memory, cpu, tlb, value, out):
    """MOV CR3 with CR4.PCIDE as it is: invalidation, then the register (bit 63 is not stored)."""
    if cpu[CR4] & CR4_PCIDE:
        event = MOV_CR3_NOFLUSH if value & CR3_NOFLUSH else MOV_CR3
        value &= ~CR3_NOFLUSH
        pcid = value & CR3_PCID_MASK
    else:
        event = MOV_CR3
        pcid = 0
    invalidate(memory, cpu, tlb, event, pcid, 0, out)
    cpu[CR3] = value


@core
def mov_cr0(memory, cpu, tlb, value, out):
    """MOV CR0: invalidation, register, derived facts."""
    old = cpu[walker.CR0]
    if old & ~value & CR0_PG:
        invalidate(memory, cpu, tlb, PG_CLEARED, current_pcid(cpu), 0, out)
    elif value & ~old & CR0_PG:
        invalidate(memory, cpu, tlb, PG_SET, current_pcid(cpu), 0, out)
    cpu[walker.CR0] = value
    walker.prepare(cpu, memory.level_bits)


@core
def mov_cr4(memory, cpu, tlb, value, out):
    """MOV CR4: every rule that the changed bits call for, register, derived facts."""
    old = cpu[CR4]
    changed = old ^ value
    pcid = current_pcid(cpu)
    if changed & CR4_PGE:
        invalidate(memory, cpu, tlb, PGE_TOGGLED, pcid, 0, out)
    if changed & CR4_PCIDE:
        invalidate(memory, cpu, tlb, PCIDE_SET if value & CR4_PCIDE else PCIDE_CLEARED, pcid, 0, out)
    if changed & CR4_PAE:
        invalidate(memory, cpu, tlb, PAE_TOGGLED, pcid, 0, out)
    if changed & CR4_PSE:
        invalidate(memory, cpu, tlb, PSE_TOGGLED, pcid, 0, out)
    if value & ~old & CR4_SMEP:
        invalidate(memory, cpu, tlb, SMEP_SET, pcid, 0, out)
    cpu[CR4] = value
    walker.prepare(cpu, memory.level_bits)


@core
def invpcid(memory, cpu, tlb, kind, pcid, gva, out):
    """INVPCID of type 0..3 with the descriptor's PCID and address."""
    invalidate(memory, cpu, tlb, INVPCID_ADDRESS + kind, pcid, gva, out)


# ---- asking

#: Outcomes are pairs (kind, value) in a table: count first.  TRANSLATED with a gfn; DENIED with the error code of a
#: page fault; NONCANONICAL with 0 (#GP or #SS).
@core
def add_outcome(outcomes, kind, value):
    """Add a pair, once.  A set too large for the table loses pairs, and its count says so by exceeding the room."""
    count = outcomes[0] + 0
    for i in range(count):
        if outcomes[1 + 2 * i] == kind and outcomes[2 + 2 * i] == value:
            return
    outcomes[1 + 2 * count] = kind
    outcomes[2 + 2 * count] = value
    outcomes[0] = count + 1


@core
def walk_outcome(memory, cpu, gva, kind, level, table, out, outcomes):
    """Outcome of a walk that goes on from here in memory as it is now."""
    status = walker.walk_from(memory, cpu, gva, level, table, out)
    if status != TRANSLATED:
        add_outcome(outcomes, DENIED, walker.fault_of(cpu, kind, status))
        return
    error = walker.judge(cpu, kind, out[WRITE], out[USER], out[NO_EXECUTE], out[KEY])
    if error:
        add_outcome(outcomes, DENIED, error)
    else:
        add_outcome(outcomes, TRANSLATED, out[GFN])


@core
def row_outcome(memory, cpu, tlb, i, gva, kind, outcomes):
    """Outcome of using the translation in row i.

    A write needs D = 1 in it, else the CPU walks (SDM 4.10.2.3).  A row that forbids the access: an Intel CPU may raise
    the fault although the tables would permit it (SDM 4.10.4.3); an AMD CPU looks into the tables first (APM 5.5.2,
    "invalidation of table entry upgrades").
    """
    at = row_at(i)
    value = tlb[at + 2]
    error = walker.judge(cpu, kind, 1 if value & PT_WRITABLE else 0, 1 if value & PT_USER else 0,
                         1 if value & NX else 0, value >> PKEY_SHIFT & PKEY_MASK)
    if error:
        if not cpu[AMD]:
            add_outcome(outcomes, DENIED, error)
        return
    if kind & walker.WRITE_ACCESS and not value & PT_DIRTY:
        return
    pages = walker.pages_of(memory, cpu[MODE], tlb[at] & LEVEL_BITS)
    add_outcome(outcomes, TRANSLATED, (value & FRAME_MASK) >> 12 | gva >> memory.page_shift & (pages - 1))


@core
def permitted(memory, cpu, tlb, gva, kind, out, outcomes):
    """The set of outcomes that the architecture permits for one access now.

    kind: as in `walker`.  outcomes: table of 1 + 2 * (rows + 2) words is always enough.  Nothing is written to guest
    memory; the table of rows learns.
    """
    outcomes[0] = 0
    if not walker.is_canonical(memory, cpu, gva):
        add_outcome(outcomes, NONCANONICAL, 0)
        return
    if cpu[MODE] == NO_PAGING:
        add_outcome(outcomes, TRANSLATED, gva >> memory.page_shift)
        return
    learn(memory, cpu, tlb, gva, out)
    gva = linear(memory, cpu, gva)
    walker.reset(out)
    level, table = walker.start(memory, cpu, gva, out)
    if table < 0:
        add_outcome(outcomes, DENIED, walker.error_bits(cpu, kind))
    else:
        walk_outcome(memory, cpu, gva, kind, level, table, out, outcomes)
    tag = cpu[TAG]
    pcid = current_pcid(cpu)
    for i in range(tlb[COUNT]):
        if not usable(tlb, i, memory, cpu, tag, pcid, gva):
            continue
        which = tlb[row_at(i)] & KIND
        if which == WALK:
            level, table = resume(tlb, i, out)
            walk_outcome(memory, cpu, gva, kind, level, table, out, outcomes)
        elif which == TRANSLATION or not in_hole(tlb, i, memory, gva):
            row_outcome(memory, cpu, tlb, i, gva, kind, outcomes)


@core
def access(memory, cpu, tlb, gva, kind, out):
    """An access by a CPU that has nothing cached: STATUS as of `walker.access`, A and D set, #PF invalidates.

    For callers without an MMU under test (`--judge`); `out` holds the details.
    """
    learn(memory, cpu, tlb, gva, out)
    status = walker.access(memory, cpu, gva, kind, out)
    if status == TRANSLATED:
        learn(memory, cpu, tlb, gva, out)
    elif status != NONCANONICAL:
        error = out[ERROR] + 0
        invalidate(memory, cpu, tlb, PAGE_FAULT, current_pcid(cpu), gva, out)
        out[ERROR] = error
        out[STATUS] = status
    return status
