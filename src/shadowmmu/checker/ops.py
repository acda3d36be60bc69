# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations: what a guest, a second vCPU and the host can do, as rows of integers and as text.

    row   | code | vcpu | four to six parameters |       eight 64-bit words
    text  v0 store 0x40 = pte(gfn=7, P|W|U|A|D)
          v0 store 0x44 = 0 size=4 emulated
          v1 load 0x40 user
          v0 mov cr3 = root(gfn=1, pcid=2, noflush)
          host memslot delete 1

`execute.perform` does them.  A vCPU runs guest code between its operations; a vCPU that was kicked out (a request by the MMU)
comes back with its own next operation, or with `v1 enter`.  Words behind an operation:

    user, ac     at CPL 3; with EFLAGS.AC set
    tlb          by a translation that the hardware still holds and that the shadow tables no longer offer: no exit, nobody is
                 asked.  If there is none, the operation is skipped, as one that raises #GP or that the host refuses
    emulated     executed by KVM's instruction emulator although the hardware could do it (the CPU exited for another reason)
    locked       a CMPXCHG that succeeds, which the emulator does by another path
    begin        only to where KVM must take mmu_lock: a page fault after the walk of the guest's tables, an emulated write after
                 the store, a dirty log after write protection, a notifier after its start.  `v0 finish` or `host finish`
                 does the rest; in between others act
"""

import re
from collections import namedtuple

from ..x86 import bits
from ..x86.bits import CR3_NOFLUSH, CR3_PCID_MASK, FRAME_MASK

ROW_WORDS = 8

(LOAD, FETCH, STORE, MOV_CR0, MOV_CR3, MOV_CR4, WRMSR_EFER, INVLPG, INVPCID, SMM_ENTER, SMM_LEAVE, INIT, SET_SREGS, SET_MSRS,
 SET_CPUID, VM_ENTRY, VM_EXIT, VMRUN, EPT_ENTRY, INVLPGA, INVEPT, INVVPID, LEVELS, VMFUNC, PRE_FAULT, ENTER, FINISH, HOST_WRITE,
 SLOT_DELETE, SLOT_CREATE, SLOT_MOVE, DIRTY_LOG, DIRTY_READ,
 DIRTY_CLEAR, UNMAP, MIGRATE,
 AGE, SET_NR_MMU_PAGES, NX_RECOVERY, HOST_FINISH) = range(40)

#: Flags of an access.
USER, AC, BY_TLB, EMULATED, LOCKED, BEGIN = 1, 2, 4, 8, 16, 32

#: Name of a flag set -> its bits, for values in scripts.
PTE_BITS = {"P": 1, "W": 2, "U": 4, "PWT": 8, "PCD": 16, "A": 32, "D": 64, "PS": 128, "G": 256, "NX": bits.NX}
CR0_BITS = {n: getattr(bits, "CR0_" + n) for n in ("PE", "MP", "EM", "TS", "ET", "NE", "WP", "AM", "NW", "CD", "PG")}
CR4_BITS = {n: getattr(bits, "CR4_" + n) for n in ("PSE", "PAE", "PGE", "LA57", "PCIDE", "SMEP", "SMAP", "PKE")}
EFER_BITS = {n: getattr(bits, "EFER_" + n) for n in ("SCE", "LME", "LMA", "NX", "SVME")}

#: One row per operation.  `text`: fields in braces are parameters in the order of the row; the letter says how a parameter is
#: written: n number, x hexadecimal, p entry, r CR3, t EPTP, 0 CR0, 4 CR4, e EFER, f access flags, s size, b on/off, m memslot
#: flags, w begin, _ nothing.
Op = namedtuple("Op", "code name text what")
OPS = (
    Op(LOAD, "load", "load {x}{_}{_}{f}", "guest load"),
    Op(FETCH, "fetch", "fetch {x}{_}{_}{f}", "guest instruction fetch"),
    Op(STORE, "store", "store {x} = {p}{s}{f}", "guest store; of a page table entry where a table is mapped"),
    Op(MOV_CR0, "mov cr0", "mov cr0 = {0}", "MOV CR0"),
    Op(MOV_CR3, "mov cr3", "mov cr3 = {r}", "MOV CR3, with `noflush` bit 63"),
    Op(MOV_CR4, "mov cr4", "mov cr4 = {4}", "MOV CR4"),
    Op(WRMSR_EFER, "wrmsr efer", "wrmsr efer = {e}", "WRMSR EFER"),
    Op(INVLPG, "invlpg", "invlpg {x}{_}{_}{f}", "INVLPG; `emulated`: by KVM, where the hardware "
       "does it by itself"),
    Op(INVPCID, "invpcid", "invpcid {n} pcid={n} {x}{f}", "INVPCID of type 0..3; `emulated` as above"),
    Op(SMM_ENTER, "smm enter", "smm enter", "SMI, as far as the MMU notices"),
    Op(SMM_LEAVE, "smm leave", "smm leave", "RSM"),
    Op(INIT, "init", "init", "INIT"),
    Op(SET_SREGS, "set_sregs", "set_sregs cr0={0} cr3={r} cr4={4} efer={e}", "KVM_SET_SREGS"),
    Op(SET_MSRS, "set_msrs", "set_msrs efer={e}", "KVM_SET_MSRS of EFER"),
    Op(SET_CPUID, "set_cpuid", "set_cpuid maxphyaddr={n}", "KVM_SET_CPUID2 with another MAXPHYADDR"),
    Op(VM_ENTRY, "vm entry", "vm entry cr3={r}", "L1, a VMX hypervisor without EPT and VPID, enters L2: L1's registers but CR3"),
    Op(VM_EXIT, "vm exit", "vm exit", "L2 leaves for L1"),
    Op(VMRUN, "vmrun", "vmrun ncr3={r} asid={n} flush={n}", "L1, an SVM hypervisor, runs L2 on its nested tables, with "
       "an ASID and TLB_CONTROL (0 nothing, 1 everything, 3 this ASID)"),
    Op(EPT_ENTRY, "vm entry eptp", "vm entry {t} vpid={n}", "L1, a VMX hypervisor, enters L2 on its EPT; vpid=0: none"),
    Op(INVLPGA, "invlpga", "invlpga {x} asid={n}", "INVLPGA of L1"),
    Op(INVEPT, "invept", "invept {n} {t}", "INVEPT of L1, type 1 (one EPTP) or 2 (all)"),
    Op(INVVPID, "invvpid", "invvpid {n} vpid={n} {x}", "INVVPID of L1, type 0 (an address), 1 (a VPID) or 2 (all)"),
    Op(LEVELS, "levels", "levels {n}", "L1 switches paging off and on, with its tables of 2 (32-bit paging), 4 or 5 levels: "
       "so many have the nested tables of its next VMRUN; on VMX it leaves VMX operation for that"),
    Op(VMFUNC, "vmfunc", "vmfunc {t}", "L2 takes another EPTP of L1's list"),
    Op(PRE_FAULT, "pre_fault", "pre_fault gfn={n}", "KVM_PRE_FAULT_MEMORY of one page, before the vCPU runs again"),
    Op(ENTER, "enter", "enter", "a vCPU that was kicked comes back"),
    Op(FINISH, "finish", "finish", "the rest of what this vCPU began"),
    Op(HOST_WRITE, "write", "write {x} = {p}{s}", "the host writes guest memory behind the MMU's back"),
    Op(SLOT_DELETE, "memslot delete", "memslot delete {n} as={n}", "KVM_SET_USER_MEMORY_REGION, size 0"),
    Op(SLOT_CREATE, "memslot create", "memslot create {n} gfn={n} pages={n} hva={n}{m}", "the same, new"),
    Op(SLOT_MOVE, "memslot move", "memslot move {n} gfn={n} as={n}", "the same, another gpa"),
    Op(DIRTY_LOG, "dirty_log", "dirty_log {n} {b} as={n}{w}", "KVM_MEM_LOG_DIRTY_PAGES"),
    Op(DIRTY_READ, "dirty_read", "dirty_read {n} as={n}{w}", "KVM_GET_DIRTY_LOG"),
    Op(DIRTY_CLEAR, "dirty_clear", "dirty_clear {n} gfn={n} pages={n} as={n}", "KVM_CLEAR_DIRTY_LOG"),
    Op(UNMAP, "unmap", "unmap hva={n} pages={n}{w}", "MMU notifier: host pages go"),
    Op(MIGRATE, "migrate", "migrate hva={n}{w}", "MMU notifier: a host page moves to another frame"),
    Op(AGE, "age", "age hva={n} pages={n}", "MMU notifier: clear_flush_young"),
    Op(SET_NR_MMU_PAGES, "set_nr_mmu_pages", "set_nr_mmu_pages {n}", "KVM_SET_NR_MMU_PAGES"),
    Op(NX_RECOVERY, "nx_recovery", "nx_recovery {n}", "one in so many pages that the iTLB multihit workaround has split may be "
       "a huge page again (kvm_recover_nx_huge_pages)"),
    Op(HOST_FINISH, "finish", "finish", "the rest of what the host began"),
)

_ACCESS_FLAGS = {"user": USER, "ac": AC, "tlb": BY_TLB, "emulated": EMULATED, "locked": LOCKED, "begin": BEGIN}
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


def _eptp_text(value):
    text = f"eptp(gfn={(value & FRAME_MASK) >> 12}, levels={(value >> 3 & 7) + 1}"
    return text + (", ad)" if value & 1 << 6 else ")")


def _eptp_value(text):
    found = re.fullmatch(r"eptp\(gfn=(\w+),\s*levels=(\d)(,\s*ad)?\)", text)
    if not found:
        return signed(int(text, 0))
    return int(found[1], 0) << 12 | 6 | (int(found[2]) - 1 & 7) << 3 | (1 << 6 if found[3] else 0)


#: letter -> (regular expression, text of a value, value of a text)
_ENTRY = r"(?:pte\([^)]*\)|-?\w+)"
_NAMES = r"[\w|]+"
_CODECS = {
    "n": (r"-?\w+", str, lambda t: int(t, 0)),
    "x": (r"-?\w+", lambda v: hex(v & (1 << 64) - 1), lambda t: signed(int(t, 0))),
    "p": (_ENTRY, pte_text, _pte_value),
    "r": (r"(?:root\([^)]*\)|-?\w+)", _root_text, _root_value),
    "t": (r"(?:eptp\([^)]*\)|-?\w+)", _eptp_text, _eptp_value),
    "0": (_NAMES, lambda v: _flags_text(v, CR0_BITS), lambda t: _flags_value(t, CR0_BITS)),
    "4": (_NAMES, lambda v: _flags_text(v, CR4_BITS), lambda t: _flags_value(t, CR4_BITS)),
    "e": (_NAMES, lambda v: _flags_text(v, EFER_BITS), lambda t: _flags_value(t, EFER_BITS)),
    "b": (r"on|off", lambda v: "on" if v else "off", lambda t: int(t == "on")),
    "s": (r"(?: size=\d+)?", lambda v: "" if v == 8 else f" size={v}", lambda t: int(t[6:]) if t else 8),
    "f": (r"(?: user| ac| tlb| emulated| locked| begin)*", lambda v: "".join(" " + n for n, b in _ACCESS_FLAGS.items() if v & b),
          lambda t: sum(_ACCESS_FLAGS[n] for n in t.split())),
    "m": (r"(?: as=1| log| readonly)*", lambda v: "".join(" " + n for n, b in _SLOT_FLAGS.items() if v & b),
          lambda t: sum(_SLOT_FLAGS[n] for n in t.split())),
    "w": (r"(?: begin)?", lambda v: " begin" if v else "", lambda t: int(bool(t))),
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
