# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest under shadow paging, under two-dimensional paging, and as the guest of a guest hypervisor: what each costs.

    shadow           gva --shadow tables--> hpa                   4 references a TLB miss; exits for #PF, CR3, INVLPG
    two-dimensional  gva --guest--> gpa --nested--> hpa           24 references; exits for #NPF only
    nested           the demo hypervisor runs the same guest: on its own shadow tables, or with nested paging

Everything is counted, nothing is timed: exits and faults by KVM's counters, entries read by the walks themselves
(engine walks of shadow tables by `walk_counter`).  A walk that ends in a fault is counted with what it read.
"""

import json
from dataclasses import asdict, dataclass

from ..engines.unicorn_svm import exits as svm
from ..engines.unicorn_svm import walk_counter
from ..engines.unicorn_svm.profile import PROFILES
from ..guests import golden, hypervisor, recorded
from ..rules import DEFAULT
from ..state import interpreted
from .errors import LabError

MMUS = {"shadow": "shadow paging", "tdp": "TDP MMU", "tdp-legacy": "legacy direct MMU"}
#: Guests that the demo hypervisor runs, in its order: (guest, with nested paging).  A MARK follows each.
CASES = (("64", False), ("pae", False), ("64", True), ("pae", True))


@dataclass
class Row:
    """One way to run the guest.  exits: all; faults: #PF and #NPF among them; emulated: instructions that KVM emulated;
    to_guest: page faults that KVM injected; tables: shadow or nested tables made; walks, refs: TLB misses and entries read;
    most: most entries that one complete walk read; vmruns: entries into a guest's guest."""

    name: str
    exits: int
    faults: int
    emulated: int
    to_guest: int
    tables: int
    walks: int
    refs: int
    most: int
    vmruns: int = 0


#: Heading and field of each line of the table.
LINES = (("exits", "exits"), ("  page faults (#PF, #NPF)", "faults"), ("instructions emulated", "emulated"),
         ("#PF injected by KVM", "to_guest"), ("tables made", "tables"), ("TLB misses (walks)", "walks"),
         ("entries read by them", "refs"), ("  most in one walk", "most"), ("VMRUN of the guest", "vmruns"))


class _Counts:
    """Counters at the start of the guest and at every MARK."""

    def __init__(self):
        self.vm, self.machine, self.snapshots = None, None, []

    def __call__(self, _tag):
        self.snapshots.append(self.take())

    def take(self):
        vm, vcpu, h = self.vm.stat, self.vm.vcpus[0].stat, interpreted.hw_walk(self.vm.view)
        exits = self.machine.exits
        fast = self.machine.hardware.exit_counts[1] - sum(self.machine.fast_exits_by_name().values())
        found = {"exits": vcpu["exits"], "vmruns": vcpu["nested_run"],
                 "faults": exits[svm.PAGE_FAULT] + exits[svm.NPF] + fast,
                 "emulated": vcpu["insn_emulation"], "to_guest": vcpu["pf_guest"], "tables": vm["mmu_page_created"],
                 "walks": h.walks, "refs": h.guest_refs + h.nested_refs, "most": h.most_refs}
        # the largest walk is per interval, not since the start
        h.most_refs = 0
        return found


def measure(config, mmu, rules, profile, *, nested=False, timeout=None):
    """Snapshots of the counters at each MARK and at the end, the guest's lines and its memory."""
    counts = _Counts()

    def prepare(machine, _outcome):
        counts.machine = machine
        if mmu == "shadow":
            walk_counter.install(machine)
        counts.snapshots.append(counts.take())

    outcome = recorded.run(golden.load(config), rules=rules, mmu=mmu, profile=PROFILES[profile], on_state=counts,
                           on_machine=prepare, nested=nested, timeout=timeout)
    if outcome.report.exit_code != 0:
        raise LabError(f"{config.stem} with {mmu}: {outcome.report.text}")
    return counts.snapshots, outcome


def _row(name, before, after):
    return Row(name, **{key: after[key] if key == "most" else after[key] - before[key] for key in after})


def run(guest="64", rules=DEFAULT, profile="amd", timeout=None, nested_on=tuple(MMUS)):
    """Rows of the table for one guest of the demo hypervisor.  nested_on: the MMUs below the hypervisor.  LabError if a run
    fails or the guest behaves differently."""
    if guest not in hypervisor.GUESTS:
        raise LabError(f"no guest {guest!r}; there are: {', '.join(hypervisor.GUESTS)}")
    rows, memory = [], None
    for mmu, title in MMUS.items():
        snapshots, outcome = measure(hypervisor.GUESTS[guest], mmu, rules, profile, timeout=timeout)
        rows.append(_row(f"alone, {title}", snapshots[0], snapshots[-1]))
        found = outcome.memory[:hypervisor.L2_SIZE]
        if memory is not None and found != memory:
            raise LabError(f"the guest's memory with {title} differs from that with {MMUS['shadow']}")
        memory = found
    for mmu in nested_on:
        title = MMUS[mmu]
        snapshots, _ = measure(hypervisor.HYPERVISOR, mmu, rules, profile, nested=True, timeout=timeout)
        for number, (name, paging) in enumerate(CASES[:len(snapshots) - 2]):
            if name == guest:
                how = "nested paging" if paging else "L1's shadow paging"
                rows.append(_row(f"nested, {how} on {title}", snapshots[number], snapshots[number + 1]))
    return rows


def table(rows):
    """The rows as columns, three to a block, at most 76 characters wide."""
    out = []
    for at in range(0, len(rows), 3):
        part = rows[at:at + 3]
        heads = [_wrapped(row.name) for row in part]
        for line in range(max(map(len, heads))):
            out.append(f"{'':26}" + "".join(f"{(head[line] if line < len(head) else ''):>16}" for head in heads))
        for heading, name in LINES:
            out.append(f"{heading:26}" + "".join(f"{getattr(row, name):>16,}" for row in part))
        averages = (f"{row.refs / row.walks:.1f}" if row.walks else "-" for row in part)
        out.append(f"{'  average of a walk':26}" + "".join(f"{value:>16}" for value in averages))
        out.append("")
    return "\n".join(out)


def _wrapped(name, width=15):
    """A heading broken at blanks."""
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def command(guest, rules, profile, as_json, timeout):
    """Body of `shadowmmu lab two-dimensional`."""
    rows = run(guest, rules, profile, timeout)
    if as_json:
        print(json.dumps({"guest": guest, "rules": rules, "host": profile, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(f"guest {guest} of the demo hypervisor, {rules}, host {profile}; counted from its first instruction to its end\n")
        print(table(rows), end="")
        print("a nested run includes the work of the hypervisor for this guest; the first one its start, too")
    return 0
