# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu run`: the guest's console, then what the MMU did, in a table that fits into a mail."""

import dataclasses
import json
import sys

from ..engines.unicorn_svm import snapshot
from ..engines.unicorn_svm.profile import PROFILES
from ..guests import lockstep, session
from ..guests.demo import IMAGE
from ..rules import RULES
from ..trace.text import Formatter
from . import terminal
from .errors import UsageError

#: (heading, [(label, vm counter or vCPU counter)])
SECTIONS = (
    ("page faults", (("taken", "pf_taken"), ("fixed", "pf_fixed"), ("spurious", "pf_spurious"),
                     ("emulated", "pf_emulate"), ("fast (lockless)", "pf_fast"), ("injected into guest", "pf_guest"),
                     ("MMIO sptes", "pf_mmio_spte_created"))),
    ("shadow pages", (("made", "mmu_page_created"), ("reused (hash hit)", "mmu_cache_hit"),
                      ("zapped", "mmu_shadow_zapped"), ("zapped for flooding", "mmu_flooded"),
                      ("reclaimed (quota)", "mmu_recycled"))),
    ("guest page tables", (("emulated writes", "mmu_pte_write"), ("PDEs zapped by them", "mmu_pde_zapped"),
                           ("pages made unsync", "mmu_unsynced"), ("pages synced", "mmu_synced"),
                           ("unsync now", "mmu_unsync"))),
    ("root cache", (("hits", "root_hit"), ("misses", "root_miss"))),
    ("TLB", (("flushes", "tlb_flush"), ("remote requests", "remote_tlb_flush_requests"), ("INVLPG", "invlpg"))),
    ("mappings now", (("4K", "pages_4k"), ("2M", "pages_2m"), ("1G", "pages_1g"))),
)


def results(outcome):
    """Everything that `run` reports, as plain data."""
    report, vm = outcome.report, outcome.vm
    counters = dict(vm.stat.items())
    for name in vm.vcpus[0].stat:
        counters[name] = sum(vcpu.stat[name] for vcpu in vm.vcpus)
    return {
        "reason": report.reason, "text": report.text, "exit_code": report.exit_code, "rules": vm.rules_name,
        "instructions": report.instructions, "seconds": round(report.seconds, 4),
        "exits": {name: n for name, n in report.exits.most_common() if n}, "handled_in_compiled_code": report.fast_exits,
        "emulated_instructions": report.emulated, "counters": counters, "warning": vm.warning,
    }


def table(data):
    """The narrow table of a run, as text."""
    lines = [f"{data['text']}", ""]
    rate = data["instructions"] / data["seconds"] / 1e6 if data["seconds"] else 0
    lines.append(f"{'guest instructions':<28}{data['instructions']:>14,}   in {data['seconds']:.2f} s"
                 f" ({rate:.1f} M/s)")
    lines.append(f"{'exits':<28}{sum(data['exits'].values()):>14,}   "
                 f"{'NPF' if 'NPF' in data['exits'] else '#PF'} without CPython:"
                 f" {data['handled_in_compiled_code']:,}")
    lines += [f"  {name:<26}{n:>14,}" for name, n in data["exits"].items()]
    lines.append(f"{'emulated instructions':<28}{data['emulated_instructions']:>14,}")
    for heading, rows in SECTIONS:
        lines.append(heading)
        lines += [f"  {label:<26}{data['counters'][name]:>14,}" for label, name in rows
                  if data["counters"][name] or label in ("made", "taken", "hits", "misses", "pages synced")]
    if data["warning"]:
        lines.append(f"WARNING, as the kernel would print it: {data['warning']}")
    return "\n".join(lines)


class EventFile:
    """Writes events as tracefs prints them; the timestamp is the event's number in microseconds."""

    def __init__(self, path, rules):
        try:
            self.file = open(path, "w", encoding="utf-8")   # noqa: SIM115 - closed in close()
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from None
        self.formatter = Formatter(kernel_of(rules))
        self.count = 0
        self.file.write("# tracer: nop\n#\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n")

    def __call__(self, rows, cpu=0):
        """cpu: the vCPU in whose turn they happened, which is the thread and the host CPU of the line."""
        for row in rows:
            self.count += 1
            stamp = f"{self.count // 1_000_000:>5}.{self.count % 1_000_000:06}"
            self.file.write(f"       shadowmmu-{cpu + 1:<7} [{cpu:03}] ..... {stamp}: {self.formatter.raw(row)}\n")

    def close(self):
        self.file.close()


def kernel_of(rules):
    """Version whose print formats a rule set uses: linux-6.12.0 -> 6.12."""
    return ".".join(rules.removeprefix("linux-").split(".")[:2])


class Console:
    """The guest's serial output, and a progress line on a terminal below it whenever a line of output is complete."""

    def __init__(self, out, quiet):
        self.out, self.quiet = out, quiet
        self.progress_wanted = sys.stderr.isatty()
        self.line_complete, self.progress_shown = True, False

    def clear(self):
        """Take the progress line away."""
        if self.progress_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self.progress_shown = False

    def write(self, data):
        """Serial bytes from the guest."""
        if self.quiet:
            return
        self.clear()
        self.out.write(data.decode("latin-1"))
        self.out.flush()
        self.line_complete = data.endswith(b"\n")

    def progress(self, machine):
        """How far the guest is."""
        if not self.line_complete:
            return
        stat, vcpu = machine.vm.stat, machine.vcpu.stat
        sys.stderr.write(f"\r{machine.hardware.instruction_count / 1e6:10.1f} M instructions"
                         f"  {vcpu['pf_taken']:>10,} faults  {stat['mmu_page_created']:>8,} shadow pages made\x1b[K")
        sys.stderr.flush()
        self.progress_shown = True


def main(image=None, *, append="", initrd=(), memory=None, rules, mmu, profile, events=None, as_json=False, timeout=None,
         max_instructions=None, la57=False, nested=False, pcid=False, quiet=False, entry="auto",
         maxphyaddr=None, snapshot_file=None, snapshot_at=None, in_lockstep=False, every=None, vcpus=1, quantum=None):
    """Body of the command; returns the process's exit code: 0, or 1 when the guest did not end by itself (with
    `in_lockstep`: when the two sides differ)."""
    for value, known, what in ((rules, RULES, "rules"), (mmu, session.MMUS, "mmu"), (profile, PROFILES, "profile"),
                               (entry, session.ENTRIES, "entry")):
        if value not in known:
            raise UsageError(f"--{what} {value!r}: there is {', '.join(known)}")
    for value, what in ((timeout, "timeout"), (max_instructions, "max-instructions"), (memory, "memory"),
                        (every, "every"), (quantum, "quantum")):
        if value is not None and value <= 0:
            raise UsageError(f"--{what} {value}: must be positive")
    if maxphyaddr is not None and not 36 <= maxphyaddr <= 52:
        raise UsageError(f"--maxphyaddr {maxphyaddr}: from 36 to 52")
    if events and mmu == "none":
        raise UsageError("--events needs a --mmu other than none: without an MMU of ours there are no events")
    if nested and mmu == "none":
        raise UsageError("--nested needs a --mmu other than none: the engine's own MMU runs no guests of a guest")
    if (snapshot_file is None) != (snapshot_at is None):
        raise UsageError("--snapshot and --snapshot-at go together")
    if snapshot_file and (nested or mmu not in session.SAVABLE):
        raise UsageError(f"--snapshot works with --mmu {' or '.join(session.SAVABLE)} and without --nested")
    if not 1 <= vcpus <= session.MAX_CPUS:
        raise UsageError(f"--vcpus {vcpus}: from 1 to {session.MAX_CPUS}")
    if quantum is not None and vcpus == 1:
        raise UsageError("--quantum goes with --vcpus")
    restored = image is not None and snapshot.is_snapshot(image)
    if vcpus > 1 and (nested or snapshot_file or restored or in_lockstep):
        raise UsageError("--vcpus works without --nested, --lockstep and snapshots")
    if every is not None and not in_lockstep:
        raise UsageError("--every goes with --lockstep")
    if in_lockstep and (nested or events or snapshot_file or restored or mmu != "shadow"):
        raise UsageError("--lockstep compares --mmu shadow with the engine's own MMU: not with another --mmu, --nested, "
                         "--events or snapshots")
    if restored and snapshot_file:
        raise UsageError("a snapshot that goes on cannot be saved again in the same run")
    loaded = None if restored else session.load(image or IMAGE, append, [(path, "") for path in initrd],
                                                memory << 20 if memory else None, pcid, entry, vcpus)
    out = sys.stderr if as_json else sys.stdout
    if in_lockstep:
        console = Console(out, quiet)
        found = lockstep.Lockstep(loaded, image or IMAGE, every=every or lockstep.EVERY, on_output=console.write,
                                  rules=rules, profile=PROFILES[profile], la57=la57, maxphyaddr=maxphyaddr, timeout=timeout,
                                  max_instructions=max_instructions).run()
        print(json.dumps(dataclasses.asdict(found), indent=2) if as_json else "\n" + lockstep.table(found))
        return {"equal": 0, "different": 1}.get(found.reason, 2)
    log = EventFile(events, rules) if events else None
    console = Console(out, quiet)
    options = {"on_output": console.write, "on_rows": log, "timeout": timeout, "max_instructions": max_instructions,
               "progress": console.progress if console.progress_wanted else None}
    try:
        with terminal.Input() as typed:
            if restored:
                outcome = session.resume(image, poll_input=typed.poll, **options)
            else:
                outcome = session.run(loaded, mmu=mmu, rules=rules, profile=PROFILES[profile], la57=la57, nested=nested,
                                      maxphyaddr=maxphyaddr, save_to=snapshot_file, snapshot_at=snapshot_at,
                                      poll_input=typed.poll, cpus=vcpus, quantum=quantum, **options)
    finally:
        if log:
            log.close()
    console.clear()
    data = results(outcome)
    if log:
        data["events"] = log.count
    print(json.dumps(data, indent=2) if as_json else "\n" + table(data))
    return 0 if outcome.report.reason == "exit" and not outcome.report.exit_code else 1
