# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a recorded guest as its recorder did: same memory, same entry state, same host operations, same log lines.

    OUT 0xe0 n   MARK n: the state is handed to `on_state`         OUT 0xe2 n   host operation n (table below)
    OUT 0xf4 n   EXIT n                                            then teardown: the VM is destroyed, events included
"""

from dataclasses import dataclass, field

from ..engines.unicorn_svm.kvm import KvmRun, RunReport
from ..engines.unicorn_svm.profile import TCG
from ..engines.unicorn_svm.tdp import NestedPagingRun
from ..mmu import counters, events
from ..state import interpreted
from ..vm import Vm, VmError
from . import platform

#: `mark` of an event row that stands for text number `mark - TEXT_MARK` (see trace.text).
TEXT_MARK = 100
HOLE_GPA, HOLE_SIZE, QUOTA = 0x105000, 4096, 64
#: The recorder did not enable kvm:vcpu_match_mmio.
RECORDED_EVENTS = events.ALL & ~(1 << events.MATCH_MMIO)
#: A DIRTY line stops growing past this many characters, as the recorder's buffer does.
DIRTY_TEXT = 180


@dataclass
class RecordedOutcome:
    """What a run produced: event rows, marker texts, value lines, final memory, counters, registers, how it ended."""

    rows: list = field(default_factory=list)
    marks: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    memory: bytes = b""
    stats: dict = field(default_factory=dict)
    registers: dict = field(default_factory=dict)
    report: RunReport | None = None


class _Recorder:
    """The VMM's side: lines, marks and host operations."""

    def __init__(self, vm, memory_size, on_state):
        self.vm, self.memory_size, self.on_state = vm, memory_size, on_state
        self.outcome = RecordedOutcome()

    def line(self, text):
        """A line of the result file, also written to the trace as a marker."""
        self.outcome.lines.append(text)
        self.outcome.marks.append(text)
        self.vm.emit(events.MARK, TEXT_MARK + len(self.outcome.marks) - 1)

    def mark(self, number):
        self.on_state(f"mark{number}")

    def dirty_log(self):
        pages = self.vm.dirty_log(0)
        text = ""
        for page in pages:
            if len(text) < DIRTY_TEXT:
                text += f" {page:x}"
        self.line(f"DIRTY {len(pages)}:{text}")

    def recreate_memslot(self):
        self.vm.delete_memslot(0)
        self.vm.add_memslot(0, 0, self.memory_size, 0)

    OPERATIONS = {
        1: lambda self: self.vm.log_dirty(0, True),
        2: dirty_log,
        3: lambda self: self.vm.log_dirty(0, False),
        4: recreate_memslot,
        5: lambda self: self.vm.unmap_host(HOLE_GPA, HOLE_SIZE),
        6: lambda self: self.vm.set_nr_mmu_pages(QUOTA),
    }

    def host_operation(self, number):
        self.line(f"HOSTOP {number} begin")
        result = 0
        if number in self.OPERATIONS:
            try:
                self.OPERATIONS[number](self)
            except VmError:
                result = -1
        self.line(f"HOSTOP {number} end rc {result}")


def run(image, *, rules, mmu="shadow", profile=TCG, on_state=lambda tag: None, timeout=None, max_instructions=None,
        progress=None, on_machine=lambda machine, outcome: None, nested=False):
    """Run `image` (from `golden.load`) to its end and tear the VM down.

    rules: name of a rule set.  mmu: as for `Vm`.  on_state(tag): called at each MARK ("mark3") and at the end ("exit"), while
    the state is there to be looked at, with the VM as `on_state.vm` if it has that attribute.  on_machine(machine, outcome):
    called before the guest runs.  nested: SVM is offered to the guest.  Returns a RecordedOutcome.
    """
    vm = Vm(image.memory_size, rules=rules, mmu=mmu, record=RECORDED_EVENTS)
    if hasattr(on_state, "vm"):
        on_state.vm = vm
    recorder = _Recorder(vm, image.memory_size, on_state)
    outcome = recorder.outcome
    devices = platform.make("golden", image.memory_size, on_line=recorder.line, on_mark=recorder.mark,
                            on_host_operation=recorder.host_operation)
    recorder.line(f"VMM create {image.name}")
    cpu = KvmRun if mmu == "shadow" else NestedPagingRun
    machine = cpu(vm, devices, profile=profile, drain=outcome.rows.extend, timeout=timeout,
                  max_instructions=max_instructions, progress=progress, nested=nested)
    machine.load(image)
    on_machine(machine, outcome)
    recorder.line("VMM run")
    report = outcome.report = machine.run()
    if report.kvm_exit is not None:
        recorder.line(report.kvm_exit)
        if report.internal is not None:
            recorder.line(report.internal)
    recorder.line(f"VMM done code {-1 if report.exit_code is None else report.exit_code}")
    on_state("exit")
    outcome.stats = {"vm": {name: vm.stat[name] for name in counters.KERNEL_VM_STATS}, "vcpu": dict(vm.vcpus[0].stat.items())}
    if interpreted.rules(vm.view).counts_used_pages_as_stat:
        outcome.stats["vm"]["mmu_shadow_pages"] = vm.view.n_used_mmu_pages
    outcome.memory = vm.read_gpa(0, image.memory_size)
    outcome.registers = machine.registers()
    recorder.line("VMM teardown")
    vm.close()
    recorder.line("VMM closed")
    outcome.rows += vm.drain_events()
    return outcome
