# SPDX-License-Identifier: GPL-2.0-or-later
"""LGDT, LIDT, LLDT, LTR: the engine loads any base, a CPU only a canonical one.

On a real CPU these make no exit.  Ours does, for the check; the second engine then executes LLDT and LTR.
"""

from ...x86.bits import EFER_LMA
from . import exits as svm
from . import guest_memory

TABLES = {svm.IDTR_WRITE: "idtr", svm.GDTR_WRITE: "gdtr"}
#: Descriptor types that LLDT and LTR take.
LDT, TSS_16, TSS = 2, 1, 9
TYPES = {svm.LDTR_WRITE: (LDT,), svm.TR_WRITE: (TSS_16, TSS)}
EXITS = (*TABLES, *TYPES)
GP = 13


def is_canonical(la57, address):
    """Canonical for a CPU that has 5-level paging or not, whatever CR4.LA57 says: what KVM checks for bases and MSRs since
    6.13 (max_host_virt_addr_bits)."""
    top = 56 if la57 else 47
    return address >> top in (0, (1 << 64 - top) - 1)


def handle(run, code):
    """One of EXITS on a `KvmRun`; always True, as an exit handler's result."""
    try:
        return _load_table(run, TABLES[code]) if code in TABLES else _load_segment(run, TYPES[code])
    except guest_memory.OperandFault as fault:
        run.operand_fault(fault)
        return True


def _load_table(run, name):
    bits, _, instruction = run.emulator.peek()
    address = run.emulator.operand_address(instruction, 0)
    data = run.emulator.memory.read(address, 10 if bits == 64 else 6)
    limit, base = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:], "little")
    if not is_canonical(run.la57, base):
        return run.queue_exception(GP, 0)
    if bits != 64 and (bits == 16) != (0x66 in instruction.prefix):
        base &= 0xFFFFFF    # operand size 16
    setattr(run.hardware, name, (base, limit))
    run.hardware.skip_instruction(instruction.size)
    return True


def _load_segment(run, types):
    """The base is looked at after type and presence, which the second engine checks (SDM vol. 2, LTR)."""
    _, code, instruction = run.emulator.peek()
    selector = run.emulator.word_operand(instruction, 0)
    table, limit = run.hardware.gdtr
    if run.vcpu.efer & EFER_LMA and selector & ~3 and not selector & 4 and (selector | 7) + 8 <= limit:
        low, high = (int.from_bytes(run.emulator.memory.read(table + (selector & ~7) + at, 8, True), "little") for at in (0, 8))
        base = low >> 16 & 0xFFFFFF | low >> 32 & 0xFF000000 | (high & 0xFFFFFFFF) << 32
        present, system_type = low >> 47 & 1, low >> 40 & 0x1F
        if present and system_type in types and not is_canonical(run.la57, base):
            return run.queue_exception(GP, selector & ~3)
    run.emulator.step_over(code)
    return True
