# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations: what a guest, a second vCPU and the host can do, as rows of integers, as text, and done.

    row   | code | vcpu | four to six parameters |       eight 64-bit words
    text  v0 store 0x40 = pte(gfn=7, P|W|U|A|D)
          v1 load 0x40 user
          v0 mov cr3 = root(gfn=1, pcid=2, noflush)
          host memslot delete 1

`perform` is the one function that does them, compiled or interpreted.  A vCPU runs guest code between its operations; a
vCPU that was kicked out (a request by the MMU) comes back with its own next operation, or with `v1 enter`.

An access with `tlb` uses a translation that the hardware still holds and that the shadow tables no longer offer: no exit,
nobody is asked.  If there is none, the operation is skipped, as one that raises #GP or that the host refuses.
"""

import re
from collections import namedtuple

from .. import state
from ..mmu import dirty, geometry, host, inject, memslots, reclaim, roles, roots, shadow_pages, sptes, walk
from ..state import core
from ..vm import emulation, entry, hardware, invalidation, operations, registers
from ..x86 import bits
from ..x86.bits import CR3_NOFLUSH, CR3_PCID_MASK, CR4_PSE, EFER_NX, FRAME_MASK, PFERR_FETCH, PFERR_USER, PFERR_WRITE
from . import architecture, known, tlb_model, verify
from . import area as areas

ROW_WORDS = 8

(LOAD, FETCH, STORE, MOV_CR0, MOV_CR3, MOV_CR4, WRMSR_EFER, INVLPG, INVPCID, SMM_ENTER, SMM_LEAVE, INIT, SET_SREGS, ENTER,
 HOST_WRITE, SLOT_DELETE, SLOT_CREATE, SLOT_MOVE, DIRTY_LOG, DIRTY_READ, UNMAP, SET_NR_MMU_PAGES) = range(22)

#: Flags of an access.
USER, AC, BY_TLB = 1, 2, 4

# ---- doing


@core
def come_in(vm, area, v):
    """The vCPU enters the guest; False if it cannot."""
    vcpu = state.vcpu(vm, v)
    if vcpu.in_guest:
        return True
    result = entry.enter(vm, vcpu)
    if result != entry.ENTER:
        dead(vm, area, v, result)
        return False
    tlb_model.obey(vm, area, vcpu, areas.part(vm, area, v, areas.HELD))
    return True


@core
def dead(vm, area, v, result):
    """The vCPU cannot run.  KVM may refuse for want of shadow pages (-ENOSPC) or when the root has no memory."""
    no_pages = result == roots.ENOSPC or result == operations.DEAD and reclaim.available(vm) == 0
    vcpu = state.vcpu(vm, v)
    h = areas.head(vm, area)
    root = (vcpu.cr3 & FRAME_MASK) >> 12
    if no_pages or architecture.frame_behind(vm, area, v, root) == areas.NO_SLOT:
        h[areas.FULL] = 1
    else:
        areas.fail(vm, area, verify.DEAD, v, 0, result, 0, 0)


@core
def look_at_host(vm, area):
    """The host may have given a page."""
    h = areas.head(vm, area)
    if h[areas.FREE_RAM] != vm.n_free_ram:
        h[areas.FREE_RAM] = vm.n_free_ram
        architecture.frames(vm, area)


@core
def reached(vm, area, v, gva, kind, frame):
    """The access goes to this frame: checks of the walk, and what may be cached now that A and D are set."""
    look_at_host(vm, area)
    verify.marks(vm, area, v, gva, kind)
    architecture.settle(vm, area)
    verify.access_done(vm, area, v, gva, kind, frame)


@core
def fetched(vm, vcpu, gva):
    """KVM's emulator fetches the instruction itself: gpa, FAULTED or MMIO."""
    gpa = emulation.fetch_gpa(vm, vcpu, gva)
    if gpa == emulation.FAULT:
        w = walk.walker_of(vm, vcpu, walk.OTHER_WALKER)
        inject.emulated_page_fault(vm, vcpu, w.fault_error, w.fault_address)
        return operations.FAULTED
    if emulation.is_mmio(vm, vcpu, gva, gpa, 0):
        return operations.MMIO
    return gpa


@core
def access(vm, area, v, gva, kind, value, size, flags):
    """A guest access within one entry: done, and checked."""
    h = areas.head(vm, area)
    vcpu = state.vcpu(vm, v)
    architecture.set_access(vm, area, v, 3 if flags & USER else 0, 1 if flags & AC else 0)
    full = kind | (PFERR_USER if flags & USER else 0)
    held = areas.part(vm, area, v, areas.HELD)
    architecture.walk_before(vm, area, v, gva, kind)
    if flags & BY_TLB:
        row = tlb_model.find(vm, area, v, gva, full)
        if row < 0:
            h[areas.SKIPPED] = 1
            return
        offset = ((tlb_model.frame_of(vm, held, row, gva) - vm.ram_pfn) << vm.page_shift) + (
            gva & ((1 << vm.page_shift) - 1))
        if hardware.translate(vm, vcpu, gva, full) == offset:
            h[areas.SKIPPED] = 1
            return
        at = offset
    else:
        at = operations.reach(vm, vcpu, gva, kind)
        tlb_model.obey(vm, area, vcpu, held)
    h[areas.OUTCOME] = at
    if at >= 0:
        reached(vm, area, v, gva, kind, (at >> vm.page_shift) + vm.ram_pfn)
        if kind & PFERR_WRITE:
            operations.write_bytes(vm, at, value, size)
        return
    if at == operations.EMULATED:
        gpa = fetched(vm, vcpu, gva) if kind & PFERR_FETCH else operations.operand_gpa(vm, vcpu, gva, kind & PFERR_WRITE)
        if gpa >= 0:
            at = emulation.ram_offset(vm, vcpu, gpa)
            reached(vm, area, v, gva, kind, (at >> vm.page_shift) + vm.ram_pfn)
            if kind & PFERR_WRITE:
                operations.write_bytes(vm, at, value, size)
                emulation.written(vm, vcpu, gpa, size)
            return
        at = gpa
        h[areas.OUTCOME] = at
    if at == operations.MMIO:
        reached(vm, area, v, gva, kind, architecture.UNBACKED_WRITE if kind & PFERR_WRITE else areas.NO_SLOT)
    elif at == operations.FAULTED:
        look_at_host(vm, area)
        verify.marks(vm, area, v, gva, kind)
        architecture.settle(vm, area)
        verify.fault_delivered(vm, area, v, gva, kind)
        inject.clear_queue(vcpu)
    elif at == operations.STUCK:
        areas.fail(vm, area, verify.LIVELOCK, v, gva, full, 0, 0)
    else:
        dead(vm, area, v, at)


@core
def skip(vm, area):
    areas.head(vm, area)[areas.SKIPPED] = 1


@core
def set_aside(vm, area, code, vcpu, a, c, d):
    """Does this operation alone lead to a deviation that is not looked for?"""
    aside = areas.head(vm, area)[areas.ASIDE]
    if code == SMM_ENTER and aside & known.SMM_PROTECTION:
        return True
    cr4 = a if code == MOV_CR4 else c if code == SET_SREGS else vcpu.cr4
    efer = a if code == WRMSR_EFER else d if code == SET_SREGS else vcpu.efer
    if code == INIT:
        cr4 = 0
        efer = 0
    if aside & known.NX_ROLE and (efer ^ vcpu.efer) & EFER_NX:
        return True
    return aside & known.PSE_ROLE != 0 and (cr4 ^ vcpu.cr4) & CR4_PSE != 0


@core
def instruction(vm, area, code, v, a, b, c, d):
    """A guest instruction that exits, or what the host does to this vCPU."""
    vcpu = state.vcpu(vm, v)
    if set_aside(vm, area, code, vcpu, a, c, d):
        skip(vm, area)
        return
    vcpu.in_guest = 0
    if code == MOV_CR0:
        if registers.set_cr0(vm, vcpu, a):
            skip(vm, area)
        else:
            look_at_host(vm, area)
            architecture.cr0_written(vm, area, v)
    elif code == MOV_CR3:
        if registers.set_cr3(vm, vcpu, a):
            skip(vm, area)
        else:
            look_at_host(vm, area)
            architecture.cr3_written(vm, area, v, a)
    elif code == MOV_CR4:
        if registers.set_cr4(vm, vcpu, a):
            skip(vm, area)
        else:
            look_at_host(vm, area)
            architecture.cr4_written(vm, area, v)
    elif code == WRMSR_EFER:
        if registers.set_efer(vm, vcpu, a, False):
            skip(vm, area)
        else:
            architecture.take_registers(vm, area, v)
    elif code == INVLPG:
        invalidation.invlpg(vm, vcpu, a)
        architecture.event(vm, area, v, architecture.INVLPG, -1, a)
    elif code == INVPCID:
        if invalidation.invpcid(vm, vcpu, a, b, c):
            skip(vm, area)
        else:
            architecture.event(vm, area, v, architecture.INVPCID_ADDRESS + a, b, c)
    elif code == SMM_ENTER or code == SMM_LEAVE:
        if vcpu.smm == (1 if code == SMM_ENTER else 0):
            skip(vm, area)
        else:
            architecture.event(vm, area, v, architecture.SMM, -1, 0)
            registers.smm_changed(vm, vcpu, code == SMM_ENTER)
    elif code == INIT:
        # INIT is blocked in SMM (SDM vol. 3 32.3.1; kvm_apic_init_sipi_allowed)
        if vcpu.smm:
            skip(vm, area)
        else:
            architecture.event(vm, area, v, architecture.INIT, -1, 0)
            registers.reset(vm, vcpu)
            architecture.take_registers(vm, area, v)
    elif code == SET_SREGS:
        if registers.set_sregs(vm, vcpu, a, b, c, d):
            skip(vm, area)
        else:
            look_at_host(vm, area)
            architecture.host_wrote_registers(vm, area, v)


@core
def empty_free_frames(vm):
    """A frame that the host has taken back holds nothing."""
    free = state.words(vm, vm.free_ram)
    for i in range(vm.n_free_ram):
        host.zero_frame(vm, free[i])


@core
def taint(vm, area, page):
    """Before the host changes the page at hva page `page`: is it a guest page table that KVM believes in?

    A shadow page that is unsync is reread at the next flush, an obsolete one is never used again.
    """
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if not slot.used or not slot.hva <= page < slot.hva + slot.npages:
            continue
        gfn = slot.base_gfn + page - slot.hva
        k = shadow_pages.hash_first(vm, gfn)
        while k >= 0:
            sp = state.page(vm, k)
            k = sp.hash_next
            if sp.gfn == gfn and roles.has_gptes(sp.role) and not sp.unsync and not shadow_pages.is_obsolete(vm, sp):
                areas.head(vm, area)[areas.TAINTED] = 1


@core
def from_host(vm, area, code, a, b, c, d, e):
    """What userspace or the host's memory management does."""
    refused = False
    if code == HOST_WRITE:
        i = memslots.vcpu_gfn_to_memslot(vm, state.vcpu(vm, 0), a >> vm.page_shift)
        if i >= 0:
            taint(vm, area, memslots.gfn_to_hva(vm, i, a >> vm.page_shift))
        refused = not host.write_guest(vm, state.vcpu(vm, 0), a, b, c)
    elif code == SLOT_DELETE:
        refused = dirty.delete_memslot(vm, b, a) < 0
    elif code == SLOT_CREATE:
        refused = dirty.find_slot(vm, e & 1, a) >= 0 or dirty.create_memslot(vm, e & 1, a, b, c, d, e >> 1) < 0
    elif code == SLOT_MOVE:
        refused = dirty.move_memslot(vm, c, a, b) < 0
    elif code == DIRTY_LOG:
        i = dirty.find_slot(vm, c, a)
        refused = i < 0
        if i >= 0:
            flags = state.slot(vm, i).flags & ~1 | b
            refused = flags == state.slot(vm, i).flags or dirty.set_flags(vm, c, a, flags) < 0
    elif code == DIRTY_READ:
        refused = dirty.get_dirty_log(vm, b, a, areas.common(vm, area, areas.OUTCOMES)) <= 0
    elif code == UNMAP:
        refused = state.words(vm, vm.hva)[a] == host.ABSENT
        for page in range(a, a + b):
            taint(vm, area, page)
        dirty.unmap_host_pages(vm, a, b)
        empty_free_frames(vm)
    elif code == SET_NR_MMU_PAGES:
        refused = vm.n_max_mmu_pages == a
        dirty.set_nr_mmu_pages(vm, a)
    if refused:
        skip(vm, area)
    h = areas.head(vm, area)
    h[areas.FREE_RAM] = vm.n_free_ram
    architecture.frames(vm, area)
    h[areas.STALE] = -1


@core
def drop_mmio_sptes(vm):
    """With `mmio-writable` set aside: no MMIO spte waits to be replaced, and no vCPU remembers one."""
    for v in range(vm.n_vcpus):
        state.vcpu(vm, v).mmio_gva = 0
    for i in range(vm.n_pages):
        if not state.page(vm, i).in_use:
            continue
        first = geometry.first_sptep(vm, i)
        for k in range(first, first + geometry.entries(vm)):
            if sptes.is_mmio(geometry.read_spte(vm, k)):
                sptes.clear_no_track(vm, k)


@core
def perform(vm, area, op, at):
    """Do the operation in words at.. of `op` and check everything: 0, or the number of the failure."""
    h = areas.head(vm, area)
    h[areas.SKIPPED] = 0
    h[areas.OUTCOME] = 0
    code = op[at]
    v = op[at + 1]
    if code >= HOST_WRITE:
        from_host(vm, area, code, op[at + 2], op[at + 3], op[at + 4], op[at + 5], op[at + 6])
    elif come_in(vm, area, v):
        if code == LOAD:
            access(vm, area, v, op[at + 2], 0, 0, 8, op[at + 5])
        elif code == FETCH:
            access(vm, area, v, op[at + 2], PFERR_FETCH, 0, 1, op[at + 5])
        elif code == STORE:
            access(vm, area, v, op[at + 2], PFERR_WRITE, op[at + 3], op[at + 4], op[at + 5])
        elif code != ENTER:
            instruction(vm, area, code, v, op[at + 2], op[at + 3], op[at + 4], op[at + 5])
        if not h[areas.FULL]:
            come_in(vm, area, v)
    if h[areas.ASIDE] & known.MMIO_WRITABLE:
        drop_mmio_sptes(vm)
    if not h[areas.FULL]:
        look_at_host(vm, area)
        verify.after_operation(vm, area)
    return h[areas.FAIL] + 0


# ---- text

#: Name of a flag set -> its bits, for values in scripts.
PTE_BITS = {"P": 1, "W": 2, "U": 4, "PWT": 8, "PCD": 16, "A": 32, "D": 64, "PS": 128, "G": 256, "NX": bits.NX}
CR0_BITS = {n: getattr(bits, "CR0_" + n) for n in ("PE", "MP", "EM", "TS", "ET", "NE", "WP", "AM", "NW", "CD", "PG")}
CR4_BITS = {n: getattr(bits, "CR4_" + n) for n in ("PSE", "PAE", "PGE", "LA57", "PCIDE", "SMEP", "SMAP", "PKE")}
EFER_BITS = {n: getattr(bits, "EFER_" + n) for n in ("SCE", "LME", "LMA", "NX", "SVME")}

#: One row per operation.  `text`: fields in braces are parameters in the order of the row; the letter says how a parameter is
#: written: n number, x hexadecimal, p entry, r CR3, 0 CR0, 4 CR4, e EFER, f access flags, s size, b on/off, m memslot
#: flags, _ nothing.  `kind`: what a generator may draw it for.
Op = namedtuple("Op", "code name text kind what")
OPS = (
    Op(LOAD, "load", "load {x}{_}{_}{f}", "access", "guest load"),
    Op(FETCH, "fetch", "fetch {x}{_}{_}{f}", "access", "guest instruction fetch"),
    Op(STORE, "store", "store {x} = {p}{s}{f}", "store", "guest store; of a page table entry where a table is mapped"),
    Op(MOV_CR0, "mov cr0", "mov cr0 = {0}", "registers", "MOV CR0"),
    Op(MOV_CR3, "mov cr3", "mov cr3 = {r}", "cr3", "MOV CR3, with `noflush` bit 63"),
    Op(MOV_CR4, "mov cr4", "mov cr4 = {4}", "registers", "MOV CR4"),
    Op(WRMSR_EFER, "wrmsr efer", "wrmsr efer = {e}", "registers", "WRMSR EFER"),
    Op(INVLPG, "invlpg", "invlpg {x}", "flush", "INVLPG"),
    Op(INVPCID, "invpcid", "invpcid {n} pcid={n} {x}", "flush", "INVPCID of type 0..3"),
    Op(SMM_ENTER, "smm enter", "smm enter", "modes", "SMI, as far as the MMU notices"),
    Op(SMM_LEAVE, "smm leave", "smm leave", "modes", "RSM"),
    Op(INIT, "init", "init", "modes", "INIT"),
    Op(SET_SREGS, "set_sregs", "set_sregs cr0={0} cr3={r} cr4={4} efer={e}", "modes", "KVM_SET_SREGS"),
    Op(ENTER, "enter", "enter", "enter", "a vCPU that was kicked comes back"),
    Op(HOST_WRITE, "write", "write {x} = {p}{s}", "host write", "the host writes guest memory behind the MMU's back"),
    Op(SLOT_DELETE, "memslot delete", "memslot delete {n} as={n}", "slots", "KVM_SET_USER_MEMORY_REGION, size 0"),
    Op(SLOT_CREATE, "memslot create", "memslot create {n} gfn={n} pages={n} hva={n}{m}", "slots", "the same, new"),
    Op(SLOT_MOVE, "memslot move", "memslot move {n} gfn={n} as={n}", "slots", "the same, another gpa"),
    Op(DIRTY_LOG, "dirty_log", "dirty_log {n} {b} as={n}", "dirty", "KVM_MEM_LOG_DIRTY_PAGES"),
    Op(DIRTY_READ, "dirty_read", "dirty_read {n} as={n}", "dirty", "KVM_GET_DIRTY_LOG"),
    Op(UNMAP, "unmap", "unmap hva={n} pages={n}", "unmap", "MMU notifier: host pages go"),
    Op(SET_NR_MMU_PAGES, "set_nr_mmu_pages", "set_nr_mmu_pages {n}", "reclaim", "KVM_SET_NR_MMU_PAGES"),
)

_ACCESS_FLAGS = {"user": USER, "ac": AC, "tlb": BY_TLB}
#: Flags of `memslot create`: bit 0 address space, then KVM_MEM_*.
_SLOT_FLAGS = {"as=1": 1, "log": 2, "readonly": 4}


class ScriptError(Exception):
    """A script that cannot be read: line number and what is wrong."""


def signed(value):
    """A 64-bit value as a signed word."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _flags_text(value, names):
    parts = []
    for name, bit in names.items():
        if value & bit:
            parts.append(name)
            value &= ~bit
    if value:
        parts.append(hex(value & (1 << 64) - 1))
    return "|".join(parts) or "0"


def _flags_value(text, names):
    value = 0
    for part in text.split("|"):
        part = part.strip()
        value |= names[part] if part in names else int(part, 0)
    return signed(value)


def pte_text(value):
    if value == 0:
        return "0"
    return f"pte(gfn={(value & FRAME_MASK) >> 12}, {_flags_text(value & ~FRAME_MASK, PTE_BITS)})"


def _pte_value(text):
    found = re.fullmatch(r"pte\(gfn=(\w+),\s*([^)]*)\)", text)
    if not found:
        return signed(int(text, 0))
    return signed(int(found[1], 0) << 12 | _flags_value(found[2], PTE_BITS))


def _root_text(value):
    text = f"root(gfn={(value & FRAME_MASK) >> 12}"
    if value & CR3_PCID_MASK:
        text += f", pcid={value & CR3_PCID_MASK}"
    return text + (", noflush)" if value & CR3_NOFLUSH else ")")


def _root_value(text):
    found = re.fullmatch(r"root\(gfn=(\w+)(?:,\s*pcid=(\w+))?(,\s*noflush)?\)", text)
    if not found:
        return signed(int(text, 0))
    value = int(found[1], 0) << 12 | int(found[2] or "0", 0)
    return value | (CR3_NOFLUSH if found[3] else 0)


#: letter -> (regular expression, text of a value, value of a text)
_ENTRY = r"(?:pte\([^)]*\)|-?\w+)"
_NAMES = r"[\w|]+"
_CODECS = {
    "n": (r"-?\w+", str, lambda t: int(t, 0)),
    "x": (r"-?\w+", lambda v: hex(v & (1 << 64) - 1), lambda t: signed(int(t, 0))),
    "p": (_ENTRY, pte_text, _pte_value),
    "r": (r"(?:root\([^)]*\)|-?\w+)", _root_text, _root_value),
    "0": (_NAMES, lambda v: _flags_text(v, CR0_BITS), lambda t: _flags_value(t, CR0_BITS)),
    "4": (_NAMES, lambda v: _flags_text(v, CR4_BITS), lambda t: _flags_value(t, CR4_BITS)),
    "e": (_NAMES, lambda v: _flags_text(v, EFER_BITS), lambda t: _flags_value(t, EFER_BITS)),
    "b": (r"on|off", lambda v: "on" if v else "off", lambda t: int(t == "on")),
    "s": (r"(?: size=\d+)?", lambda v: "" if v == 8 else f" size={v}", lambda t: int(t[6:]) if t else 8),
    "f": (r"(?: user| ac| tlb)*", lambda v: "".join(" " + n for n, b in _ACCESS_FLAGS.items() if v & b),
          lambda t: sum(_ACCESS_FLAGS[n] for n in t.split())),
    "m": (r"(?: as=1| log| readonly)*", lambda v: "".join(" " + n for n, b in _SLOT_FLAGS.items() if v & b),
          lambda t: sum(_SLOT_FLAGS[n] for n in t.split())),
    "_": (r"", lambda v: "", lambda t: 0),
}


def _compile(op):
    pieces = re.split(r"\{(.)\}", op.text)
    expression, letters = re.escape(pieces[0]).replace(r"\ ", r"\s+"), pieces[1::2]
    for letter, literal in zip(pieces[1::2], pieces[2::2]):
        expression += f"({_CODECS[letter][0]})" + re.escape(literal).replace(r"\ ", r"\s+")
    return re.compile(expression), letters


_PATTERNS = {op.code: _compile(op) for op in OPS}
BY_CODE = {op.code: op for op in OPS}


def row(code, vcpu=0, *parameters):
    """A row from its parts."""
    return (code, vcpu, *(signed(p) for p in parameters), *(0,) * (ROW_WORDS - 2 - len(parameters)))


def show(op_row):
    """A row as a line of a script."""
    op = BY_CODE[op_row[0]]
    values = iter(op_row[2:])
    text = re.sub(r"\{(.)\}", lambda m: _CODECS[m[1]][1](next(values)), op.text)
    return ("host " if op.code >= HOST_WRITE else f"v{op_row[1]} ") + text


def parse_line(line):
    """A line of a script as a row; ValueError says what is wrong."""
    actor, _, rest = line.partition(" ")
    rest = rest.strip()
    if actor != "host" and not re.fullmatch(r"v\d", actor):
        raise ValueError(f"{actor!r} is neither a vCPU (v0, v1) nor host")
    for op in OPS:
        if (op.code >= HOST_WRITE) != (actor == "host"):
            continue
        pattern, letters = _PATTERNS[op.code]
        found = pattern.fullmatch(rest)
        if found:
            values = [_CODECS[letter][2](text) for letter, text in zip(letters, found.groups())]
            return row(op.code, 0 if actor == "host" else int(actor[1:]), *values)
    known = sorted(op.text for op in OPS if (op.code >= HOST_WRITE) == (actor == "host"))
    raise ValueError(f"no operation reads like {rest!r}; there are: {'; '.join(re.sub(r'{.}', '..', k) for k in known)}")


Script = namedtuple("Script", "machine rules vcpus rows")


def parse(text):
    """A script: settings `machine NAME`, `rules NAME`, `vcpus N`, then operations; `#` starts a comment."""
    settings = {"machine": "4-level", "rules": "linux-6.12", "vcpus": "1"}
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        word, _, value = line.partition(" ")
        try:
            if word in settings and not rows:
                settings[word] = value.strip()
            else:
                rows.append(parse_line(line))
        except (ValueError, KeyError) as error:
            raise ScriptError(f"line {number}: {error}") from None
    try:
        vcpus = int(settings["vcpus"])
    except ValueError:
        raise ScriptError(f"vcpus {settings['vcpus']!r} is not a number") from None
    for op_row in rows:
        if op_row[1] >= vcpus:
            raise ScriptError(f"{show(op_row)!r}: there are only {vcpus} vCPUs")
    return Script(settings["machine"], settings["rules"], vcpus, rows)


def script(machine, rules, vcpus, rows):
    """The text that `parse` reads."""
    return "\n".join([f"machine {machine}", f"rules {rules}", f"vcpus {vcpus}", *map(show, rows)]) + "\n"
