# SPDX-License-Identifier: GPL-2.0-or-later
"""A finding as a C test in the style of kvm-unit-tests, for what a guest can do and see in itself.

The small machine is rebuilt with pages of 4K and tables of 512 entries.  One rule maps everything, so that a table that is
mapped as a page, or linked at another level, stays what it was:

    entry i of a scaled table      entry i + 8 of the real one     entry 0 of the roots is the test's own code, and KVM
                                                                   prefetches aligned groups of 8 until one is absent
    page i under a scaled 2M page  page i + 8 of the real one      gfn g lies at  world + (g / 4) * 2M + (g % 4 + 8) * 4K
    linear address                 the same indices, each + 8      page 5 of the script: 0x40201209000

Every page carries its gfn near its end; a read returns it, a write leaves a stamp that is looked for, a fetch calls a `ret`.
`reproducer.c` is the frame of the program, with @places@ that are filled in here.  What is permitted at the end is asked of
the oracle (`judge`), so the test says PASS for every outcome that a CPU may choose.
"""

import pathlib
import re

from ..oracle import walker
from ..x86 import bits
from . import causes, judge, judge_command, judge_cpu, ops, verify
from .architecture import ACCESSES
from .geometry import MACHINES, MMIO, PAGE, ROOT_A, ROOT_B

CR4_BITS = {"PGE": bits.CR4_PGE, "PCIDE": bits.CR4_PCIDE, "SMEP": bits.CR4_SMEP, "SMAP": bits.CR4_SMAP, "PSE": bits.CR4_PSE}
#: What the program does when the CPU lacks something.
SKIP = """\
	if (!this_cpu_has(X86_FEATURE_?)) {
		report_skip("no ?");
		return report_summary();
	}
"""
#: What userspace does to a vCPU, and what would end the test.
NOT_A_GUESTS = (ops.SET_SREGS, ops.SET_MSRS, ops.SET_CPUID, ops.SMM_ENTER, ops.SMM_LEAVE, ops.INIT, ops.VM_ENTRY, ops.VM_EXIT,
                ops.PRE_FAULT)
#: Entry 0 of a scaled table is this entry of the real one.
SHIFT = 8
FEATURES = {"PCIDE": "PCID", "SMEP": "SMEP", "SMAP": "SMAP"}


class NotForGuests(Exception):
    """Why there is no C test for a finding."""


def real_gva(gva):
    """The linear address of a scaled one (its page; the place within the page is mapped as an entry)."""
    page = gva // PAGE
    out = 0
    for level in range(4):
        out |= ((page >> 2 * level & 3) + SHIFT) << 12 + 9 * level
    return out + real_offset(gva % PAGE)


def real_offset(offset):
    """Entry i is entry i + SHIFT; the byte within it stays."""
    return offset + 8 * SHIFT


def c_flags(value):
    """Bits of an entry as C."""
    names = (("PT_PRESENT_MASK", 1), ("PT_WRITABLE_MASK", 2), ("PT_USER_MASK", 4), ("PT_ACCESSED_MASK", 32),
             ("PT_DIRTY_MASK", 64), ("PT_PAGE_SIZE_MASK", 128), ("PT_GLOBAL_MASK", 256))
    out = [name for name, bit in names if value & bit]
    rest = value & 0xFFF & ~sum(bit for _, bit in names if value & bit)
    if rest:
        out.append(hex(rest))
    if value < 0:
        out.append("PT64_NX_MASK")
    return " | ".join(out) or "0"


def c_entry(value):
    """An entry of a scaled table as a C expression."""
    if value == 0:
        return "0"
    gfn = (value & bits.FRAME_MASK) >> 12
    return f"entry({gfn}ull, {c_flags(value)})"


def _access(code, gva, flags):
    kind = {ops.LOAD: "READ", ops.FETCH: "FETCH", ops.STORE: "WRITE"}[code]
    who = "USER" if flags & ops.USER else "SUPERVISOR_AC" if flags & ops.AC else "SUPERVISOR"
    return f"access_as(va({real_gva(gva) & ~0xFFF:#x}), {kind}, {who});"


def _cr4(value):
    names = [f"X86_CR4_{name}" for name, bit in CR4_BITS.items() if value & bit]
    return f"set_cr4({' | '.join(names) or '0'});"


def statement(row):
    """One operation as C.  NotForGuests: it cannot be done by a guest in 64-bit mode.  None: an act of the host."""
    code, _, a, b, c, d = row[:6]
    if code >= ops.HOST_WRITE or code in NOT_A_GUESTS:
        return None
    if code == ops.STORE:
        value = c_entry(b) if c == 8 else hex(b & (1 << 8 * c) - 1)
        user = ", USER" if d & ops.USER else ", SUPERVISOR"
        return f"store{8 * c}(va({real_gva(a):#x}), {value}{user});"
    if code in (ops.LOAD, ops.FETCH):
        return _access(code, a, d)
    if code == ops.MOV_CR0:
        if not a & bits.CR0_PG:
            raise NotForGuests("the script turns paging off, which the test's 64-bit code cannot")
        return f"set_cr0({'X86_CR0_WP' if a & bits.CR0_WP else '0'});"
    if code == ops.MOV_CR3:
        gfn = (a & bits.FRAME_MASK) >> 12
        if gfn not in (ROOT_A, ROOT_B):
            raise NotForGuests(f"the script loads CR3 with gfn {gfn}, where the test's own code is not mapped")
        return f"write_cr3(gpa({gfn}) | {a & bits.CR3_PCID_MASK:#x}ull{' | CR3_NOFLUSH' if a & bits.CR3_NOFLUSH else ''});"
    if code == ops.MOV_CR4:
        return _cr4(a)
    if code == ops.WRMSR_EFER:
        return f"set_nx({1 if a & bits.EFER_NX else 0});"
    if code == ops.INVLPG:
        return f"invlpg(va({real_gva(a):#x}));"
    if code == ops.INVPCID:
        return f"do_invpcid({a}, {b}, va({real_gva(c):#x}));"
    return ";"


def _question(finding):
    """(rows before it, vCPU, address, kind, flags, how many of `rows` are judged): the access that shows the finding."""
    v, gva, _, hardware, allowed = finding.place
    if finding.failure == verify.TRANSLATION:
        wrong = hardware & ~allowed
        bit = next(k for k in (0, 1, 3, 4, 2, 5, 6, 7) if wrong >> k & 1)
        kind, cpl, ac = ACCESSES[bit]
        code = {walker.READ: ops.LOAD, walker.WRITE_ACCESS: ops.STORE, walker.FETCH: ops.FETCH}[kind]
        return finding.rows, ops.row(code, v, gva, 0, 8, (ops.USER if cpl else 0) | (ops.AC if ac else 0))
    last = finding.rows[-1]
    return finding.rows[:-1], ops.row(last[0], last[1], last[2], 0, 8, last[5] & ~ops.BY_TLB)


def program(finding):
    """The C source.  NotForGuests says why there is none."""
    if finding.withheld:
        raise NotForGuests(f"{finding.deviation} is withheld: for a private report to the kernel's maintainers")
    if finding.failure in causes.PRIVATE or finding.failure > verify.INVARIANT:
        raise NotForGuests(f"a guest could hurt its host by this ({finding.rule}); it is for a private report to "
                           "security@kernel.org and the KVM maintainers")
    if finding.failure not in causes.GUEST_VISIBLE:
        raise NotForGuests(f"a guest's own program cannot see this kind of failure ({finding.rule})")
    machine = MACHINES[finding.machine]
    if machine.nested:
        raise NotForGuests(f"machine {finding.machine}: it takes a guest hypervisor, which these programs are not")
    if machine.unshadowed:
        raise NotForGuests(f"machine {finding.machine}: what KVM emulates there a program cannot choose")
    if machine.entry_bytes != 8 or not machine.efer & bits.EFER_LMA or machine.cr4 & bits.CR4_LA57:
        raise NotForGuests(f"machine {finding.machine}: kvm-unit-tests sets up 4-level tables; only machines with 4 levels are "
                           "mapped")
    rows, question = _question(finding)
    # what the host does is left out of the program, so it is left out of what is expected, too
    lines = [ops.show(row if statement(row) else ops.row(ops.ENTER, row[1])) for row in rows]
    who, _, what = ops.show(question).partition(" ")
    text = "\n".join([f"machine {machine.name}", f"vcpus {finding.vcpus}", *lines, f"{who} {judge_command.QUESTION} {what}"])
    steps = [[outcome["what"] for outcome in step["permitted"]] for step in judge_command.document(text)["steps"]]
    user = any(row[0] in judge.KINDS and row[5] & ops.USER for row in [*rows, question])
    guarded = any(row[0] == ops.MOV_CR4 and row[2] & (bits.CR4_SMEP | bits.CR4_SMAP) for row in rows)
    if user and guarded:
        raise NotForGuests("the script needs user accesses and SMEP or SMAP: the test's code is either user or supervisor")
    text = (pathlib.Path(__file__).parent / "reproducer.c").read_text()
    parts = _parts(finding, machine, rows, question, steps, user)
    return re.sub(r"@(\w+)@", lambda found: str(parts[found[1]]), text)


def _parts(finding, machine, rows, question, steps, user):
    functions, calls, host = [], [], []
    for i, row in enumerate(rows):
        text, line = ops.show(row), statement(row)
        if line is None:
            host.append(text)
            calls.append(f"\t/* {text}: not a guest's to do */")
            continue
        ways = f"\t/* may go {len(steps[i])} ways on hardware */\n" if len(steps[i]) > 1 else ""
        functions.append(f"static void op_{i + 1}(void *unused)\n{{\n{ways}\t{line}\n}}\n")
        calls.append(f"\trun_on({row[1]}, op_{i + 1});\t/* {text} */")
    checks = []
    for outcome in steps[-1]:
        if outcome.startswith("gfn"):
            gfn = int(outcome.split()[1])
            checks.append("outcome.gfn == " + ("NO_GFN" if gfn >= MMIO else str(gfn)) + " && !outcome.vector")
        else:
            checks.append(f"outcome.vector == PF_VECTOR && outcome.error == {outcome.split()[1]}")
    features = {FEATURES[name] for name, bit in CR4_BITS.items() if name in FEATURES
                and (machine.cr4 & bit or any(row[0] == ops.MOV_CR4 and row[2] & bit for row in rows))}
    if any(row[0] == ops.INVPCID for row in rows):
        features.add("INVPCID")
    tables = [f"\t*entry_at({gfn}, {i}) = {c_entry(value)};" for gfn, entries in sorted(machine.tables().items())
              for i, value in enumerate(entries)]
    indent = "\n *   "
    return {
        "title": f"{finding.rule}: {finding.meaning}",
        "script": indent.join(finding.script.rstrip().splitlines()),
        "ask": ops.show(question).replace("= 0", "").rstrip(),
        "shift": SHIFT, "vendor": "Intel" if machine.intel else "AMD",
        "expected": indent.join(o.replace("gfn", "page") for o in steps[-1]),
        "broken": _broken(finding),
        "host": (indent + "These operations are not a guest's to do and are left out; without them the MMU may pass:"
                 + "".join(indent + "  " + h for h in host)) if host else "",
        "manual": finding.cause.manual, "commits": finding.cause.commits or "none",
        "functions": "\n".join(functions), "calls": "\n".join(calls), "tables": "\n".join(tables),
        "cpu": question[1], "cpus": finding.vcpus,
        "question": _ask(question), "address": hex(real_gva(question[2]) & ~0xFFF),
        "checks": "\n\t    || ".join(f"({c})" for c in checks),
        "skip": "".join(SKIP.replace("?", f) for f in sorted(features)),
        "setup": "setup_vm();" if user else "__setup_vm(&supervisor_only);",
        "cr4": _cr4(machine.cr4), "nx": 1 if machine.efer & bits.EFER_NX else 0,
    }


def _ask(row):
    """The last access; which page a fetch came from is seen by a read that follows it."""
    text = f"outcome = {_access(row[0], row[2], row[5])}"
    if row[0] == ops.FETCH:
        text += f"\n\tif (!outcome.vector)\n\t\toutcome.gfn = {_access(ops.LOAD, row[2], row[5])[:-1]}.gfn;"
    return text


def _broken(finding):
    if finding.failure == verify.FAULT:
        return f"a #PF with error code {judge_cpu.error_text(finding.place[2])}"
    return f"page {finding.details.get('frame', '?')}"
