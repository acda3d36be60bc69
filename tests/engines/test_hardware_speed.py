# SPDX-License-Identifier: GPL-2.0-or-later
"""Costs of the engine's interfaces: `python tests/engines/test_hardware_speed.py` prints them.

As tests these only prove that the measured programs run; times are never asserted.
"""

import time

import numpy as np

from shadowmmu.engines.unicorn_svm import exits as ex
from shadowmmu.engines.unicorn_svm.stepper import InstructionStepper
from shadowmmu.state.foreign import callback, load64, store64

from .test_hardware_harness import Machine, code


def timed(count, machine, program, **options):
    machine.hardware.gpr[1] = count
    start = time.perf_counter()
    machine.run(program, **options)
    return (time.perf_counter() - start) / count * 1e6


def fault_loop(count, fast):
    """A load from an absent page that is repaired only after `count` faults: each is one round trip."""
    machine = Machine(counting=None)
    machine.tables.view(np.uint64)[machine.entry(0x5000)] = 0
    seen = [0]

    def on_fault():
        seen[0] += 1
        return seen[0] < count

    if fast:
        block = np.zeros(8, np.int64)
        block[5] = count
        entry = machine.tables.ctypes.data + 8 * machine.entry(0x5000)
        leaf = 0x800000 + 0x5000 | 7

        @callback("i64", "i64")
        def path(argument):
            left = load64(argument + 40) - 1
            store64(argument + 40, left)
            if left == 0:
                store64(entry, leaf)
            return 1

        machine.hardware.install_fast_path(path.address, block.ctypes.data)
    machine.handlers[ex.PAGE_FAULT] = on_fault
    start = time.perf_counter()
    machine.run(code("8a 04 25 00 50 00 00 f4"))
    return (time.perf_counter() - start) / count * 1e6


def delivery(count):
    machine = Machine(counting=None)
    machine.poke(0x2000, code("48 83 04 24 02 | add qword [rsp], 2\n 48 cf | iretq"))
    machine.gate(6, 0x2000)
    return timed(count, machine, code("0f 0b | ud2\n ff c9 | dec ecx\n 75 fa | jnz\n f4"))


def mips(count, counting):
    machine = Machine(counting=counting)
    return 5 / timed(count, machine, code("""48 8b 04 25 00 50 00 00 | mov rax, [0x5000]
                                          48 31 c8 | xor rax, rcx
                                          48 89 04 25 00 50 00 00 | mov [0x5000], rax
                                          ff c9 75 e9 f4 | dec ecx; jnz"""))


def io(count):
    machine = Machine(counting=None)
    machine.handlers[ex.IOIO] = lambda: True
    return timed(count, machine, code("e6 80 | out 0x80, al\n ff c9 75 fa f4"))


class NoMemory:
    def read(self, gva, size, implicit_supervisor):
        return bytes(size)

    def write(self, gva, data, implicit_supervisor):
        pass


def step(count, text):
    machine, stepper, memory = Machine(counting=None), InstructionStepper(), NoMemory()
    hw, instruction = machine.hardware, code(text)
    start = time.perf_counter()
    for _ in range(count):
        hw.rip = 0x1000
        stepper.step(hw, instruction, memory)
    return (time.perf_counter() - start) / count * 1e6


def flush(count):
    hw = Machine(counting=None).hardware
    start = time.perf_counter()
    for _ in range(count):
        hw.flush_page(0x5000)
    page = (time.perf_counter() - start) / count * 1e6
    start = time.perf_counter()
    for _ in range(count):
        hw.flush_tlb()
    return page, (time.perf_counter() - start) / count * 1e6


def main(scale=1.0):
    many, few = max(10, int(1_000_000 * scale)), max(10, int(100_000 * scale))
    print(f"page fault, Python on_exit      {fault_loop(few, False):8.2f} us")
    print(f"page fault, compiled fast path  {fault_loop(many, True):8.2f} us")
    print(f"#UD delivered inside + IRET     {delivery(few):8.2f} us")
    print(f"OUT, Python on_exit             {io(few):8.2f} us")
    for counting in (None, "blocks", "exact"):
        print(f"5-instruction loop, counting {counting!s:8} {mips(many * 5, counting):6.0f} MIPS")
    print("flush page / all                {:8.2f} / {:.2f} us".format(*flush(few)))
    print(f"step: store                     {step(few // 4, '48 89 03'):8.2f} us")
    print(f"step: read-modify-write         {step(few // 4, '48 01 03'):8.2f} us")


def test_speed_programs_run(capsys):
    main(0.0001)
    assert "step: store" in capsys.readouterr().out


if __name__ == "__main__":
    main()
