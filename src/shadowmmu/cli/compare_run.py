# SPDX-License-Identifier: GPL-2.0-or-later
"""`trace compare-run`: run a recorded guest here and hold it against the recording."""

import json

from ..guests import golden, recorded
from ..state import interpreted
from ..trace import compare, dump, normalise
from ..trace.errors import TraceError
from ..trace.runs import RecordedRun
from ..trace.text import Formatter


def state_dump(vm, nested=False):
    """The MMU's state as a `trace.dump.StateDump`.  nested: as the recorder of golden-nested dumps it."""
    v, cpu = vm.view, vm.vcpus[0]
    r = cpu.record
    names = {r.mmu: ("root_mmu", "guest_mmu")[r.mmu % 3]}
    contexts = [mmu_state(vm, index, name, index == r.mmu)
                for index, name in ((cpu.index * 3, "root_mmu"), (cpu.index * 3 + 1, "guest_mmu"))
                if nested or index == r.mmu]
    registers = {"cr0": cpu.cr0, "cr3": cpu.cr3, "cr4": cpu.cr4, "efer": cpu.efer}
    walk = None
    if nested:
        names[cpu.index * 3 + 2] = "nested_mmu"
        other = interpreted.context(v, cpu.index * 3 + 2)
        walk = names.get(r.walk_mmu, "root_mmu"), other.cpu_role, other.cpu_ext
        registers = {"guest_mode": r.guest_mode} | registers
    return dump.StateDump(
        contexts=contexts, registers=registers, gen=v.mmu_valid_gen, n_used=v.n_used_mmu_pages, n_max=v.n_max_mmu_pages,
        indirect=v.indirect_shadow_pages, pages=[shadow_page(p) for p in vm.shadow_pages],
        guest_frames=guest_frames(vm), tdp_pages=[shadow_page(p) for p in vm.tdp_pages], walk=walk,
        nonpresent=interpreted.rules(v).nonpresent_spte)


def mmu_state(vm, index, name, current):
    """One context as a `trace.dump.MmuState`."""
    v = vm.view
    ctx = interpreted.context(v, index)
    spt = interpreted.words(v, v.spt)
    pae = (ctx.pae_root - v.shadow_pfn) << v.level_bits
    # mmu_alloc_special_roots: with two-dimensional paging only the shadow of a 32-bit nested table needs them
    tables = []
    if ctx.special or name == "root_mmu" and not interpreted.rules(v).tdp_enabled:
        tables = [(f"PAEROOT{i}", spt[pae + i]) for i in range(4)]
        if ctx.special and name == "guest_mmu":
            tables.append(("PML4ROOT0", spt[(ctx.pml4_root - v.shadow_pfn) << v.level_bits]))
    return dump.MmuState(
        root=dump.Root(ctx.root_hpa, ctx.root_pgd), prev=[dump.Root(ctx.prev_hpa[i], ctx.prev_pgd[i]) for i in range(3)],
        cpu_role=ctx.cpu_role, ext=ctx.cpu_ext, root_role=ctx.root_role, tables=tables, name=name, current=current)


def shadow_page(p):
    """A `vm.ShadowPage` as a `trace.dump.ShadowPage`."""
    return dump.ShadowPage(p.gfn, p.role, p.frame, int(p.unsync), p.gen, p.root_count, p.unsync_children,
                           p.write_flooding_count, "many" if p.parents_in_descs else p.parents, p.sptes)


def guest_frames(vm):
    """pfn -> gfn as the recorder's pfnmap has it: taken once, before the guest ran."""
    return {vm.view.ram_pfn + i: i for i in range(vm.view.n_hva)}


class _States:
    """Collects a dump at every mark."""

    def __init__(self, nested):
        self.vm, self.dumps, self.nested = None, [], nested

    def __call__(self, tag):
        self.dumps.append((tag, state_dump(self.vm, self.nested)))


#: Mode in the name of a folder (logs/6.12-npt1/g1) -> value of `mmu` for the run.
MODES = {"": "shadow", "npt0": "shadow", "npt1": "tdp", "npt1-legacy": "tdp-legacy"}


def mmu_of(recording):
    """The MMU that a recording exercised.  TraceError for a mode that nobody knows."""
    if recording.mode not in MODES:
        known = ", ".join(mode for mode in MODES if mode)
        raise TraceError(f"unknown mode {recording.mode!r} in the name of the folder above (known: {known})",
                         recording.path)
    return MODES[recording.mode]


def run(run_dir, *, timeout=None, progress=None):
    """Run the guest of RUN_DIR under the rules of its kernel: a `trace.compare.Report`.

    Raises TraceError (bad directory) or GuestImageError (bad guest files).
    """
    recording = RecordedRun(run_dir)
    mmu = mmu_of(recording)
    states = _States(recording.mode != "")
    outcome = recorded.run(golden.load(recording.config), rules=f"linux-{recording.kernel}", mmu=mmu, on_state=states,
                           timeout=timeout, progress=progress, nested=recording.mode != "")
    formatter = Formatter(recording.kernel, guest_frames=guest_frames(states.vm), marks=outcome.marks)
    lines = [formatter.normal(row) for row in outcome.rows]
    return compare.compare_run(recording, compare.RunResult(
        events=[line for line in lines if not normalise.is_reinjection(line)], dumps=states.dumps, values=outcome.lines,
        memory=outcome.memory, stats=outcome.stats, registers=outcome.registers))


def main(run_dir, *, as_json=False, timeout=None):
    """Body of the command: 0 when everything is equal, 1 when not."""
    report = run(run_dir, timeout=timeout)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
        return 0 if report.equal else 1
    yes = {True: "equal", False: "DIFFERENT", None: "not recorded"}
    mode = f", mode {report.mode}" if report.mode else ""
    print(f"{report.guest} on Linux {report.kernel}{mode}")
    print(f"  events    {report.events_equal:>8,} of {report.events_total:,} equal")
    print(f"  states    {report.states_equal:>8,} of {report.states_total:,} equal")
    for name in ("values", "memory", "registers", "counters"):
        print(f"  {name:<10}{yes[getattr(report, name + '_equal')]}")
    print("  normalised lines, by rule")
    for name, n in report.normalised.items():
        print(f"    {name:<24}{n:>8,}")
    for name, text in report.differences.items():
        print(f"\nfirst difference, {name}:\n{text}")
    return 0 if report.equal else 1
