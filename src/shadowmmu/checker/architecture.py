# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker's only contact with the oracle (`area` has its sizes): what the architecture permits each vCPU, kept up to date.

    before an operation   everything is settled: the set of permitted translations holds all that the tables offered
    guest memory changes  --> settle(): learn again, but only if the change lies in a page that is a table for this vCPU
    register, INVLPG ...  --> the oracle's own rule, then settle()
    memslots, host pages  --> frames(): what gfn is which frame; a gfn may lose its memory, a translation does not notice

`GUEST_RIGHTS[w u nx d]` is the set of accesses that the guest's registers permit now, `HARDWARE_RIGHTS[w u nx]` the set that
the CPU would really let pass with the registers that the MMU gave it (CR0.WP=1, EFER.NX=1):

    bit   0     1      2      3     4      5      6           7
          read  write  fetch  read  write  fetch  read AC=1   write AC=1
          supervisor          user                supervisor
"""

from .. import state
from ..mmu import contexts, memslots
from ..oracle import nested, tlb, walker
from ..state import core
from ..vm import hardware
from ..x86.bits import (
    CR0_CD,
    CR0_NW,
    CR0_PG,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMEP,
    EFER_LMA,
    EFER_NX,
    FRAME_MASK,
    NX,
    PFERR_FETCH,
    PFERR_USER,
    PFERR_WRITE,
    PT_DIRTY,
    PT_USER,
    PT_WRITABLE,
)
from . import area as areas
from . import known, l2_paging

#: Invalidations by their names in the oracle, for `event`.
INVLPG, INVPCID_ADDRESS, SMM, INIT = tlb.INVLPG, tlb.INVPCID_ADDRESS, tlb.SMM, tlb.INIT

#: (kind of access, CPL, EFLAGS.AC) of each bit of a set of accesses.
ACCESSES = ((walker.READ, 0, 0), (walker.WRITE_ACCESS, 0, 0), (walker.FETCH, 0, 0), (walker.READ, 3, 0),
            (walker.WRITE_ACCESS, 3, 0), (walker.FETCH, 3, 0), (walker.READ, 0, 1), (walker.WRITE_ACCESS, 0, 1))
WRITES = 1 << 1 | 1 << 4 | 1 << 7
#: In place of a frame: where a write does not reach memory.
UNBACKED_WRITE = -4
ALL_ACCESSES = (1 << len(ACCESSES)) - 1


@core
def memory_of(vm, area, v):
    """Guest-physical memory as vCPU `v` sees it now."""
    space = 1 if state.vcpu(vm, v).smm else 0
    return walker.Memory(state.words(vm, vm.ram), areas.common(vm, area, areas.FRAMES + space * areas.GFNS), areas.GFNS,
                         vm.page_shift, vm.level_bits)


@core
def cpu_of(vm, area, v):
    return areas.part(vm, area, v, areas.CPU)


@core
def permitted_of(vm, area, v):
    return areas.part(vm, area, v, areas.PERMITTED)


@core
def permitted_words(vm, area, v):
    """Words of the table that are in use (equal sets are equal words)."""
    return tlb.row_at(permitted_of(vm, area, v)[tlb.COUNT] + 0)


@core
def set_access(vm, area, v, cpl, ac):
    """CPL and EFLAGS.AC of the access that follows, for the vCPU and for the oracle."""
    vcpu = state.vcpu(vm, v)
    cpu = cpu_of(vm, area, v)
    vcpu.cpl = cpl
    vcpu.ac = ac
    # what nested tables decide about is always a user access
    cpu[walker.CPL] = 3 if areas.nested(vm, area) else cpl
    cpu[walker.AC] = ac
    if l2_paging.active(vm, area, v):
        l2_paging.set_access(vm, area, v, cpl, ac)


def rows(words):
    """The permitted translations in a vCPU's words, for people."""
    return tlb.rows(words[areas.PERMITTED:areas.HELD])


# ---- what changes

@core
def frames(vm, area):
    """Read the memslots and the host's page table anew."""
    hva = state.words(vm, vm.hva)
    for space in range(2):
        table = areas.common(vm, area, areas.FRAMES + space * areas.GFNS)
        for gfn in range(areas.GFNS):
            i = memslots.gfn_to_memslot(vm, space, gfn)
            place = areas.NO_SLOT
            if i >= 0:
                entry = hva[memslots.gfn_to_hva(vm, i, gfn)]
                read_only = state.slot(vm, i).flags & memslots.READONLY != 0
                place = areas.ABSENT_READONLY if read_only else areas.ABSENT
                if entry != -1:
                    frame = (entry & ((1 << 56) - 1)) - vm.ram_pfn
                    place = walker.ram_frame(frame, 1 if read_only else 0)
            if table[gfn] != place:
                table[gfn] = place
                areas.head(vm, area)[areas.STALE] = -1


@core
def rights_now(vm, area, v):
    """Fill GUEST_RIGHTS and HARDWARE_RIGHTS from the registers."""
    if areas.nested(vm, area):
        nested_rights_now(vm, area, v)
        return
    vcpu = state.vcpu(vm, v)
    cpu = cpu_of(vm, area, v)
    guest = areas.part(vm, area, v, areas.GUEST_RIGHTS)
    hard = areas.part(vm, area, v, areas.HARDWARE_RIGHTS)
    cpl = cpu[walker.CPL] + 0
    ac = cpu[walker.AC] + 0
    real_ac = vcpu.ac
    for rights in range(8):
        allowed = 0
        real = 0
        for bit in range(len(ACCESSES)):
            kind, level, alignment = ACCESSES[bit]
            cpu[walker.CPL] = level
            cpu[walker.AC] = alignment
            vcpu.ac = alignment
            if walker.judge(cpu, kind, rights & 1, rights >> 1 & 1, rights >> 2 & 1, 0) == 0:
                allowed |= 1 << bit
            access = kind | (PFERR_USER if level == 3 else 0)
            if not hardware.permission_error(vcpu, rights & 1 != 0, rights & 2 != 0, rights & 4 != 0, access):
                real |= 1 << bit
        if areas.head(vm, area)[areas.UNSHADOWED]:
            # the CPU has the guest's own registers
            real = allowed
        guest[rights] = allowed & ~WRITES
        guest[8 | rights] = allowed
        hard[rights] = real
    cpu[walker.CPL] = cpl
    cpu[walker.AC] = ac
    vcpu.ac = real_ac


@core
def nested_rights_now(vm, area, v):
    """The same where nested tables decide: there is no supervisor (APM vol. 2 15.25.5; SDM vol. 3 29.3.2)."""
    cpu = cpu_of(vm, area, v)
    guest = areas.part(vm, area, v, areas.GUEST_RIGHTS)
    hard = areas.part(vm, area, v, areas.HARDWARE_RIGHTS)
    ept = state.context(vm, state.vcpu(vm, v).mmu).kind == contexts.PAGING_EPT
    for rights in range(8):
        allowed = 0
        real = 0
        for bit in range(len(ACCESSES)):
            kind, _, _ = ACCESSES[bit]
            if walker.judge(cpu, kind, rights & 1, rights >> 1 & 1, rights >> 2 & 1, 0) == 0:
                allowed |= 1 << bit
            # in the shadow of an EPT, U is the right to read and nothing else
            readable = rights & 2 or ept and kind != walker.READ
            if readable and (rights & 1 or kind != walker.WRITE_ACCESS) and (not rights & 4 or kind != walker.FETCH):
                real |= 1 << bit
        guest[rights] = allowed & ~WRITES
        guest[8 | rights] = allowed
        hard[rights] = real


@core
def outdated(vm, area, v):
    """What is derived from this vCPU's registers must be derived anew."""
    h = areas.head(vm, area)
    h[areas.STALE] |= 1 << v
    h[areas.RIGHTS] |= 1 << v


@core
def reset(vm, area, v):
    """Take everything over from the vCPU's record; nothing is cached."""
    vcpu = state.vcpu(vm, v)
    cpu = cpu_of(vm, area, v)
    cpu[walker.MAXPHYADDR] = vcpu.maxphyaddr
    cpu[walker.AMD] = vcpu.is_amd
    cpu[walker.GBPAGES] = vcpu.has_gbpages
    cpu[walker.PSE36] = vcpu.has_pse36
    tlb.clear(permitted_of(vm, area, v), areas.ORACLE_ROWS)
    take_registers(vm, area, v)


@core
def take_registers(vm, area, v):
    """CR0, CR3, CR4, EFER as the vCPU has them now; with nested paging, L1's nested tables while L2 runs, and none else."""
    vcpu = state.vcpu(vm, v)
    cpu = cpu_of(vm, area, v)
    if areas.nested(vm, area):
        take_nested_tables(vm, cpu, vcpu)
        outdated(vm, area, v)
        return
    cpu[walker.CR0] = vcpu.cr0
    cpu[walker.CR3] = vcpu.cr3
    cpu[walker.CR4] = vcpu.cr4
    cpu[walker.EFER] = vcpu.efer
    walker.prepare(cpu, vm.level_bits)
    outdated(vm, area, v)


@core
def take_nested_tables(vm, cpu, vcpu):
    """How the physical addresses of whoever runs are translated: by L1's nested tables, as it had them at the entry; L1's not."""
    cpu[walker.CPL] = 3
    cpu[walker.EXECUTE_ONLY] = vcpu.ept_execonly
    if not vcpu.guest_mode:
        cpu[walker.FORMAT] = walker.BY_REGISTERS
        cpu[walker.CR0] = 0
        walker.prepare(cpu, vm.level_bits)
    elif vcpu.is_amd:
        nested.npt_host(cpu, vcpu.nested_pgd, vcpu.l1_cr4, vcpu.l1_efer, cpu[walker.TAG] + 0, vm.level_bits)
    else:
        nested.ept_host(cpu, vcpu.nested_pgd, vm.level_bits)


@core
def nested_event(vm, area, v, what, tag, address):
    """An invalidation by its name in oracle.nested.  Where L2 does not page there are no combined rows."""
    combined = areas.common(vm, area, areas.OUTCOMES)
    if areas.head(vm, area)[areas.L2_CR0]:
        combined = l2_paging.combined_of(vm, area, v)
    else:
        combined[tlb.COUNT] = 0
    nested.event(memory_of(vm, area, v), cpu_of(vm, area, v), permitted_of(vm, area, v), combined, what, tag, address,
                 areas.common(vm, area, areas.OUT))
    outdated(vm, area, v)


@core
def load_nested_pdptes(vm, area, v):
    """PAE nested tables: the PDPTEs at nCR3."""
    cpu = cpu_of(vm, area, v)
    if cpu[walker.MODE] == walker.PAE:
        for i in range(4):
            # as KVM reports a table without memory
            cpu[walker.PDPTE + i] = 0
        walker.load_pdptes(memory_of(vm, area, v), cpu, cpu[walker.CR3])


@core
def root_of(vm, area, v):
    """Where the tables begin that KVM shadows for this vCPU; -1 << 12: none can be without memory."""
    vcpu = state.vcpu(vm, v)
    return vcpu.nested_pgd if areas.nested(vm, area) and vcpu.guest_mode else vcpu.cr3


@core
def take_cpuid(vm, area, v):
    """MAXPHYADDR is another one now.  No manual speaks of it, so nothing is taken from what the CPU may hold."""
    cpu_of(vm, area, v)[walker.MAXPHYADDR] = state.vcpu(vm, v).maxphyaddr
    take_registers(vm, area, v)


@core
def load_pdptes(vm, area, v):
    """PAE paging: the PDPTE registers are loaded (SDM vol. 3 4.4.1)."""
    cpu = cpu_of(vm, area, v)
    if cpu[walker.CR0] & CR0_PG and cpu[walker.CR4] & CR4_PAE and not cpu[walker.EFER] & EFER_LMA:
        walker.load_pdptes(memory_of(vm, area, v), cpu, cpu[walker.CR3])


@core
def cr3_refused(vm, area, v, value):
    """Must MOV CR3 raise #GP(0)?  Bits 63:MAXPHYADDR are reserved, bit 63 only with CR4.PCIDE=0 (SDM vol. 2, MOV to control
    registers)."""
    cpu = cpu_of(vm, area, v)
    if cpu[walker.CR4] & CR4_PCIDE:
        value &= (1 << 63) - 1
    return value >> cpu[walker.MAXPHYADDR] != 0


@core
def cr3_written(vm, area, v, value):
    """MOV CR3 has been done."""
    tlb.mov_cr3(memory_of(vm, area, v), cpu_of(vm, area, v), permitted_of(vm, area, v), value,
                areas.common(vm, area, areas.OUT))
    take_registers(vm, area, v)
    load_pdptes(vm, area, v)


@core
def cr0_written(vm, area, v):
    """MOV CR0 has been done; EFER.LMA may have followed it."""
    cpu = cpu_of(vm, area, v)
    changed = cpu[walker.CR0] ^ state.vcpu(vm, v).cr0
    tlb.mov_cr0(memory_of(vm, area, v), cpu, permitted_of(vm, area, v), state.vcpu(vm, v).cr0,
                areas.common(vm, area, areas.OUT))
    take_registers(vm, area, v)
    if changed & (CR0_CD | CR0_NW | CR0_PG):
        load_pdptes(vm, area, v)


@core
def cr4_written(vm, area, v):
    """MOV CR4 has been done."""
    cpu = cpu_of(vm, area, v)
    changed = cpu[walker.CR4] ^ state.vcpu(vm, v).cr4
    tlb.mov_cr4(memory_of(vm, area, v), cpu, permitted_of(vm, area, v), state.vcpu(vm, v).cr4,
                areas.common(vm, area, areas.OUT))
    take_registers(vm, area, v)
    if changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP):
        load_pdptes(vm, area, v)


@core
def cr4_refused(vm, area, v, value):
    """MOV CR4 has raised #GP.  With `pdptrs-early` set aside it may have loaded the PDPTE registers all the same."""
    vcpu = state.vcpu(vm, v)
    cpu = cpu_of(vm, area, v)
    if areas.head(vm, area)[areas.ASIDE] & known.PDPTRS_EARLY and vcpu.cr0 & CR0_PG \
            and value & CR4_PCIDE and not vcpu.cr4 & CR4_PCIDE \
            and not value & vcpu.cr4_reserved and value & CR4_PAE and not vcpu.efer & EFER_LMA \
            and (value ^ vcpu.cr4) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP):
        # as if the new CR4 were in force: with PAE=0 until now, too
        walker.load_pdptes(memory_of(vm, area, v), cpu, cpu[walker.CR3])
        outdated(vm, area, v)


@core
def host_wrote_registers(vm, area, v):
    """KVM_SET_SREGS has been done.  No manual speaks of it, so nothing is taken from what the CPU may hold."""
    take_registers(vm, area, v)
    load_pdptes(vm, area, v)


@core
def event(vm, area, v, what, pcid, gva):
    """An invalidation by its name in oracle.tlb; pcid -1: the current one."""
    cpu = cpu_of(vm, area, v)
    if pcid < 0:
        pcid = tlb.current_pcid(cpu)
    tlb.invalidate(memory_of(vm, area, v), cpu, permitted_of(vm, area, v), what, pcid, gva,
                   areas.common(vm, area, areas.OUT))
    outdated(vm, area, v)


# ---- keeping up

@core
def see_memory(vm, area):
    """Compare RAM with the snapshot: bit per RAM frame that has changed; the snapshot is now."""
    ram = state.words(vm, vm.ram)
    snapshot = areas.common(vm, area, areas.SNAPSHOT)
    changed = 0
    differs = 0
    for i in range(vm.n_ram << (vm.page_shift - 3)):
        differs |= ram[i] ^ snapshot[i]
    if not differs:
        return 0
    for i in range(vm.n_ram << (vm.page_shift - 3)):
        if ram[i] != snapshot[i]:
            snapshot[i] = ram[i]
            changed |= 1 << (i >> (vm.page_shift - 3))
    return changed


@core
def settle(vm, area):
    """Bring every vCPU's set of permitted translations up to this moment."""
    h = areas.head(vm, area)
    changed = see_memory(vm, area)
    if not changed and not h[areas.STALE]:
        return
    for v in range(vm.n_vcpus):
        own = areas.part(vm, area, v, areas.TABLES)
        stale = h[areas.STALE] >> v & 1
        if h[areas.ASIDE] & known.EPT_SHARED and areas.nested(vm, area) and not state.vcpu(vm, v).is_amd:
            learn_cached_eptps(vm, area, v)
        paged = l2_paging.active(vm, area, v)
        if stale or changed & own[0] or changed and paged:
            if h[areas.RIGHTS] >> v & 1:
                rights_now(vm, area, v)
            learn(vm, area, v, -1 if stale else changed)
            if paged:
                l2_paging.learn(vm, area, v)
            h[areas.CHANGED] |= 1 << v
    h[areas.STALE] = 0
    h[areas.RIGHTS] = 0


@core
def learn_pages(vm, area, v):
    """Let the oracle learn what the vCPU's CPU table, as it is, permits for every linear page of interest."""
    h = areas.head(vm, area)
    memory = memory_of(vm, area, v)
    cpu = cpu_of(vm, area, v)
    permitted = permitted_of(vm, area, v)
    out = areas.common(vm, area, areas.OUT)
    previous = -1
    for k in range(h[areas.N_GVAS]):
        gva = h[areas.GVAS + k] + 0
        tlb.learn_next(memory, cpu, permitted, gva, previous, out)
        previous = gva


@core
def learn_cached_eptps(vm, area, v):
    """With `ept-shared` set aside: the CPU may fill its TLB for every EPTP that KVM has a root for, whoever runs."""
    vcpu = state.vcpu(vm, v)
    cpu = cpu_of(vm, area, v)
    ctx = state.context(vm, 3 * v + 1)
    tag = cpu[walker.TAG] + 0
    for i in range(-1, 3):
        hpa = ctx.root_hpa if i < 0 else ctx.prev_hpa[i]
        if hpa == -1:
            continue
        nested.ept_host(cpu, ctx.root_pgd if i < 0 else ctx.prev_pgd[i], vm.level_bits)
        learn_pages(vm, area, v)
    cpu[walker.TAG] = tag
    take_nested_tables(vm, cpu, vcpu)
    share_rows(vm, area, v)
    if permitted_of(vm, area, v)[tlb.OVERFLOW]:
        areas.head(vm, area)[areas.FULL] = 1


@core
def share_rows(vm, area, v):
    """With `ept-shared` set aside: what this vCPU may have cached of an EPT, the others may, too."""
    mine = permitted_of(vm, area, v)
    for w in range(vm.n_vcpus):
        if w == v:
            continue
        theirs = permitted_of(vm, area, w)
        count = theirs[tlb.COUNT] + 0
        for i in range(mine[tlb.COUNT]):
            at = tlb.row_at(i)
            tlb.hold(theirs, mine[at] + 0, mine[at + 1] + 0, mine[at + 2] + 0)
        if theirs[tlb.COUNT] != count:
            areas.head(vm, area)[areas.CHANGED] |= 1 << w
        if theirs[tlb.OVERFLOW]:
            areas.head(vm, area)[areas.FULL] = 1


@core
def table_bit(memory, gfn):
    """Bit of the RAM frame behind a table's gfn."""
    if gfn < 0 or gfn >= memory.gfns or memory.frames[gfn] < 0:
        return 0
    return 1 << (memory.frames[gfn] >> 1)


@core
def learn(vm, area, v, changed):
    """Walk for every linear page of interest, remember the walk's result, and let the oracle learn from it.

    changed: RAM frames that are others than when this was done last, if nothing else has changed; -1: do everything.  A walk
    that read none of them gives what it gave.
    """
    h = areas.head(vm, area)
    memory = memory_of(vm, area, v)
    cpu = cpu_of(vm, area, v)
    permitted = permitted_of(vm, area, v)
    out = areas.common(vm, area, areas.OUT)
    fresh = areas.part(vm, area, v, areas.FRESH)
    guest = areas.part(vm, area, v, areas.GUEST_RIGHTS)
    paths = areas.part(vm, area, v, areas.PATHS)
    other_roots = h[areas.ASIDE] & known.OTHER_PCIDS and cpu[walker.CR4] & CR4_PCIDE
    if other_roots:
        # what they leave behind may be walked on from in any walk
        changed = -1
    tables = 0
    previous = -1
    for i in range(h[areas.N_GVAS]):
        if not changed & paths[i] and changed >= 0:
            tables |= paths[i]
            continue
        gva = h[areas.GVAS + i] + 0
        fresh[2 * i] = -1
        fresh[2 * i + 1] = 0
        paths[i] = 0
        if cpu[walker.MODE] == walker.NO_PAGING:
            fresh[2 * i] = gva >> vm.page_shift
            fresh[2 * i + 1] = ALL_ACCESSES
            continue
        elsewhere = tlb.learn_next(memory, cpu, permitted, gva, previous, out)
        previous = gva
        status = out[walker.STATUS]
        accessed = True
        path = 0
        for level in range(out[walker.LEVEL], out[walker.TOP] + 1):
            path |= table_bit(memory, out[walker.ADDRESS + level - 1] >> vm.page_shift)
            if not walker.is_accessed(cpu, out[walker.ENTRY + level - 1]):
                accessed = False
        tables |= path
        paths[i] = -1 if elsewhere else path
        if status == walker.TRANSLATED and accessed:
            fresh[2 * i] = out[walker.GFN]
            fresh[2 * i + 1] = guest[out[walker.WRITE] | out[walker.USER] << 1 | out[walker.NO_EXECUTE] << 2
                                     | out[walker.DIRTY] << 3]
    if other_roots:
        learn_cached_roots(vm, area, v)
    for i in range(permitted[tlb.COUNT]):
        at = tlb.row_at(i)
        if permitted[at] & tlb.KIND == tlb.WALK:
            tables |= table_bit(memory, (permitted[at + 2] & FRAME_MASK) >> 12)
    areas.part(vm, area, v, areas.TABLES)[0] = tables
    if permitted[tlb.OVERFLOW]:
        h[areas.FULL] = 1


@core
def learn_cached_roots(vm, area, v):
    """With `other-pcids` set aside: the CPU may fill the TLB of a PCID while another one is current, from the page tables
    that KVM has a cached root for."""
    cpu = cpu_of(vm, area, v)
    ctx = state.context(vm, state.vcpu(vm, v).mmu)
    cr3 = cpu[walker.CR3] + 0
    for i in range(3):
        if ctx.prev_hpa[i] == -1:
            continue
        cpu[walker.CR3] = ctx.prev_pgd[i]
        learn_pages(vm, area, v)
    cpu[walker.CR3] = cr3


# ---- asking

@core
def frame_behind(vm, area, v, gfn):
    """Host frame (RAM frame + ram_pfn) behind a gfn; negative: NO_SLOT or ABSENT."""
    if gfn < 0 or gfn >= areas.GFNS:
        return areas.NO_SLOT
    space = 1 if state.vcpu(vm, v).smm else 0
    place = areas.common(vm, area, areas.FRAMES + space * areas.GFNS)[gfn]
    return place if place < 0 else (place >> 1) + vm.ram_pfn


@core
def leads_to(vm, area, v, gfn, frame):
    """Does this gfn lead to this host frame; for UNBACKED_WRITE, to a place where a write goes to userspace: no memslot, or a
    read-only one."""
    if frame != UNBACKED_WRITE:
        return frame_behind(vm, area, v, gfn) == frame
    if gfn < 0 or gfn >= areas.GFNS:
        return True
    space = 1 if state.vcpu(vm, v).smm else 0
    place = areas.common(vm, area, areas.FRAMES + space * areas.GFNS)[gfn]
    return place == areas.NO_SLOT or place == areas.ABSENT_READONLY or place >= 0 and place & 1 != 0


@core
def accesses_by_rows(vm, area, v, gva, frame):
    """Accesses that some held translation of `gva` to this host frame permits (NO_SLOT: to an address without memory)."""
    memory = memory_of(vm, area, v)
    cpu = cpu_of(vm, area, v)
    permitted = permitted_of(vm, area, v)
    guest = areas.part(vm, area, v, areas.GUEST_RIGHTS)
    pcid = tlb.current_pcid(cpu)
    allowed = 0
    if cpu[walker.MODE] == walker.NO_PAGING:
        return 0
    for i in range(permitted[tlb.COUNT]):
        at = tlb.row_at(i)
        kind = permitted[at] & tlb.KIND
        if kind != tlb.TRANSLATION and kind != tlb.PIECES:
            continue
        if not tlb.usable(permitted, i, memory, cpu, cpu[walker.TAG], pcid, gva):
            continue
        if kind == tlb.PIECES and tlb.in_hole(permitted, i, memory, gva):
            continue
        value = permitted[at + 2]
        pages = walker.pages_of(memory, cpu[walker.MODE], permitted[at] & tlb.LEVEL_BITS)
        gfn = (value & FRAME_MASK) >> 12 | gva >> vm.page_shift & (pages - 1)
        if not leads_to(vm, area, v, gfn, frame):
            continue
        rights = 1 if value & PT_WRITABLE else 0
        if value & PT_USER:
            rights |= 2
        if value & NX:
            rights |= 4
        if value & PT_DIRTY:
            rights |= 8
        allowed |= guest[rights]
    return allowed


@core
def accesses_to(vm, area, v, i, frame):
    """Accesses that any permitted translation of the i-th linear page of interest to this host frame permits."""
    fresh = areas.part(vm, area, v, areas.FRESH)
    allowed = 0
    if fresh[2 * i + 1] and leads_to(vm, area, v, fresh[2 * i], frame):
        allowed = fresh[2 * i + 1] + 0
    return allowed


@core
def access_bit(kind, cpl, ac):
    """Bit of an access in a set of accesses."""
    if kind & PFERR_FETCH:
        return 1 << (5 if cpl == 3 else 2)
    if kind & PFERR_WRITE:
        return 1 << (4 if cpl == 3 else 7 if ac else 1)
    return 1 << (3 if cpl == 3 else 6 if ac else 0)


@core
def may_fault(vm, area, v, gva, kind, error):
    """Is a page fault with this error code permitted for the access now (CPL, AC: of the cpu table)?"""
    outcomes = areas.common(vm, area, areas.OUTCOMES)
    cpu = cpu_of(vm, area, v)
    tlb.permitted(memory_of(vm, area, v), cpu, permitted_of(vm, area, v), gva, kind, areas.common(vm, area, areas.OUT), outcomes)
    if areas.head(vm, area)[areas.ASIDE] & known.FETCH_FLAG and cpu[walker.MODE] == walker.BITS32 and kind & PFERR_FETCH \
            and cpu[walker.EFER] & EFER_NX and not cpu[walker.CR4] & CR4_SMEP:
        error &= ~PFERR_FETCH
    for i in range(outcomes[0]):
        if outcomes[1 + 2 * i] == walker.DENIED and outcomes[2 + 2 * i] == error:
            return True
    return False


@core
def may_exit(vm, area, v, gva, kind, error):
    """Is an exit for a fault of the nested tables with this error (of oracle.nested) permitted for L2's access now?"""
    cpu = cpu_of(vm, area, v)
    if cpu[walker.FORMAT] == walker.EPT_TABLES and error < nested.MISCONFIGURATION:
        if areas.common(vm, area, areas.BEFORE)[walker.STATUS] == walker.NO_MEMORY:
            # what is read where a table has no memory is not said; KVM tells the rights of the entries above
            error &= 7
        if areas.head(vm, area)[areas.ASIDE] & known.EPT_EMULATED_READ and error & 1 and error & 6:
            # refused for what it was, or as a read
            return may_fault(vm, area, v, gva, kind, error & ~1) or may_fault(vm, area, v, gva, walker.READ, error & ~6)
    return may_fault(vm, area, v, gva, kind, error)


@core
def faulted(vm, area, v, gva):
    """A page fault has been delivered."""
    if not areas.head(vm, area)[areas.ASIDE] & known.FAULT_KEEPS:
        event(vm, area, v, tlb.PAGE_FAULT, -1, gva)


@core
def walk_before(vm, area, v, gva, kind):
    """Before an access: the walk that it may have to do, in BEFORE, with the verdict in its STATUS."""
    cpu = cpu_of(vm, area, v)
    out = areas.common(vm, area, areas.BEFORE)
    out[walker.STATUS] = walker.TRANSLATED
    if l2_paging.active(vm, area, v):
        # (what it may mark: l2_paging.MARKS)
        l2_paging.remember(vm, area, v, gva, kind)
        return
    if walker.walk(memory_of(vm, area, v), cpu, gva, out) == walker.TRANSLATED:
        if walker.judge(cpu, kind, out[walker.WRITE], out[walker.USER], out[walker.NO_EXECUTE], out[walker.KEY]):
            out[walker.STATUS] = walker.DENIED


@core
def marks_wrong(vm, area, v, kind):
    """After an access, before its data is written: index of a RAM word that differs from the snapshot by more than the A
    and D bits that the walk in BEFORE may set; -1 if there is none."""
    memory = memory_of(vm, area, v)
    cpu = cpu_of(vm, area, v)
    out = areas.common(vm, area, areas.BEFORE)
    ram = state.words(vm, vm.ram)
    snapshot = areas.common(vm, area, areas.SNAPSHOT)
    differs = 0
    for i in range(vm.n_ram << (vm.page_shift - 3)):
        differs |= ram[i] ^ snapshot[i]
    if not differs:
        return -1
    for i in range(vm.n_ram << (vm.page_shift - 3)):
        if ram[i] == snapshot[i]:
            continue
        allowed = 0
        if l2_paging.active(vm, area, v):
            allowed = l2_paging.MARKS + 0
        elif cpu[walker.MODE] != walker.NO_PAGING:
            for level in range(out[walker.LEVEL], out[walker.TOP] + 1):
                gpa = out[walker.ADDRESS + level - 1]
                at, _ = walker.locate(memory, gpa)
                if at == i:
                    bits = walker.may_set(cpu, kind, out, level)
                    allowed |= bits << 32 if gpa & 4 else bits
        if (ram[i] ^ snapshot[i]) & ~allowed or snapshot[i] & ~ram[i]:
            return i
    return -1
