# SPDX-License-Identifier: GPL-2.0-or-later
"""x86_emulate_instruction: fetch, decode, and let the right one execute.

    MOV CRn, INVLPG, CLTS, LMSW, SMSW ...... here, through KVM's register functions
    everything else ........................ the stepper: a second engine executes the instruction, its memory
                                             accesses come back to the MMU (guest_memory)

Order and events are the kernel's: the exception queue is cleared, the bytes are fetched by a walk (up to 15, not
across the page until needed), kvm_emulate_insn is traced, then a write-protected page whose writer is no page-table
instruction is unprotected and retried.
"""

import capstone

from ...mmu import counters, events
from ...mmu.roles import DIRECT
from ...vm import calls
from ...vm.exits import ALLOW_RETRY, WRITE_TO_OWN_TABLE
from ...vm.machine import signed
from .errors import EngineError
from .guest_memory import EmulatorMemory, OperandFault

#: x86_page_table_writing_insn (the PageTable flag of KVM's opcode table), by mnemonic; the destination is memory.
PAGE_TABLE_WRITERS = frozenset({"mov", "or", "and", "xchg", "cmpxchg", "cmpxchg8b", "bts", "btc"})

RESUME, AGAIN, FAILED = 0, 1, 2
MODE_REAL, MODE_VM86, MODE_PROT16, MODE_PROT32, MODE_PROT64 = range(5)
MAX_INSTRUCTION = 15
GP = 13

CR_WRITES, CR_READS = 0x22, 0x20
#: INSB, INSD, OUTSB, OUTSD.
STRING_IO = range(0x6C, 0x70)
DIRECTION = 1 << 10


class Emulator:
    """Emulates single instructions of one vCPU.

    `hardware`: the CPU; `stepper`: the second engine; `userspace`: platform side of MMIO.
    """

    def __init__(self, vm, vcpu, hardware, stepper, userspace):
        self.vm, self.vcpu, self.hardware, self.stepper = vm, vcpu, hardware, stepper
        self.userspace = userspace
        self.memory = EmulatorMemory(vm, vcpu, userspace)
        self._decoders = {}
        for bits, mode in ((16, capstone.CS_MODE_16), (32, capstone.CS_MODE_32), (64, capstone.CS_MODE_64)):
            self._decoders[bits] = capstone.Cs(capstone.CS_ARCH_X86, mode)
            self._decoders[bits].detail = True

    # -- decoding

    def code_bits(self):
        """Operand size of the code segment: 16, 32 or 64."""
        flags = self.hardware.segment(1).flags
        if self.vcpu.efer & 0x400 and flags & 1 << 21:
            return 64
        return 32 if flags & 1 << 22 else 16

    def linear_rip(self):
        """kvm_get_linear_rip."""
        if self.code_bits() == 64:
            return self.hardware.rip
        return (self.hardware.segment(1).base + self.hardware.rip) & 0xFFFFFFFF

    def _mode(self, bits):
        if not self.vcpu.cr0 & 1:
            return MODE_REAL
        return {16: MODE_PROT16, 32: MODE_PROT32, 64: MODE_PROT64}[bits]

    def _disassemble(self, bits, code):
        return next(self._decoders[bits].disasm(code, self.hardware.rip, 1), None)

    def fetch(self):
        """Fetch and decode at RIP: (bits, bytes, instruction or None).  Raises OperandFault."""
        bits, linear = self.code_bits(), self.linear_rip()
        first = min(MAX_INSTRUCTION, self.vm.page_size - linear % self.vm.page_size)
        code = self.memory.fetch(linear, first)
        instruction = self._disassemble(bits, code)
        if instruction is None and first < MAX_INSTRUCTION:
            # only when the bytes of this page are not enough
            code += self.memory.fetch(linear + first, MAX_INSTRUCTION - first)
            instruction = self._disassemble(bits, code)
        return bits, code, instruction

    def _trace(self, bits, code, length, failed):
        data = code[:length].ljust(16, b"\0")
        self.vm.emit(events.EMULATE_INSN, 0 if bits == 64 else self.hardware.segment(1).base, self.hardware.rip, length,
                     int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little"), self._mode(bits), failed)

    # -- entry points

    def skip(self):
        """kvm_skip_emulated_instruction without NRIPS: decode only to find the length.  False if it cannot."""
        self._clear_exceptions()
        try:
            bits, code, instruction = self.fetch()
        except OperandFault:
            self._begin(self.code_bits(), b"", None)
            return False
        self._begin(bits, code, instruction)
        if instruction is None:
            return False
        self.hardware.skip_instruction(instruction.size)
        return True

    def _clear_exceptions(self):
        r = self.vcpu.record
        r.exception_pending = r.exception_injected = r.vmexit_pending = 0

    def _begin(self, bits, code, instruction):
        self.last_code = code
        self._trace(bits, code, instruction.size if instruction else 0, 0)
        self.vcpu.record.stat[counters.INSN_EMULATION] += 1

    def emulate(self, address=0, flags=0, faulted=False):
        """x86_emulate_instruction: RESUME, or FAILED when neither KVM nor the stepper can do it.

        address: CR2 of the page fault (guest-physical with direct tables), or 0.  flags: ALLOW_RETRY, WRITE_TO_OWN_TABLE.
        faulted: EMULTYPE_PF, the MMU asked for it.
        """
        self._clear_exceptions()
        self.memory.gpa_value = None
        try:
            bits, code, instruction = self.fetch()
        except OperandFault as fault:
            self._begin(self.code_bits(), b"", None)
            if self._retry_on_failure(address, flags):
                return RESUME
            self._inject(fault)
            return RESUME
        self._begin(bits, code, instruction)
        if instruction is None:
            return RESUME if self._retry_on_failure(address, flags) else FAILED
        if faulted and self.vcpu.mmu.root_role & DIRECT and self._can_use_gpa(instruction):
            self.memory.gpa_value = address
        if calls.retry_instruction(self.vm.handle, self.vcpu.index, signed(address), int(flags & ALLOW_RETRY != 0),
                                   int(self._writes_page_tables(instruction))):
            return RESUME
        try:
            return self._execute(code, instruction)
        except OperandFault as fault:
            self._inject(fault)
            return RESUME

    def _inject(self, fault):
        calls.emulated_page_fault(self.vm.handle, self.vcpu.index, fault.error_code, signed(fault.address),
                                  fault.of_nested_table)

    def _gp(self):
        calls.queue_exception(self.vm.handle, self.vcpu.index, GP, 1, 0)

    def _retry_on_failure(self, address, flags):
        """kvm_unprotect_and_retry_on_failure."""
        if not flags & ALLOW_RETRY or flags & WRITE_TO_OWN_TABLE:
            return False
        r = self.vcpu.record
        if r.last_retry_eip == signed(self.hardware.rip) and r.last_retry_addr == signed(address):
            return False
        calls.unprotect_and_retry(self.vm.handle, self.vcpu.index, signed(address))
        r.last_retry_eip, r.last_retry_addr = signed(self.hardware.rip), signed(address)
        return True

    @staticmethod
    def _can_use_gpa(instruction):
        """emulator_can_use_gpa: the fault's address is the operand's, unless there are several operands in memory."""
        name = instruction.mnemonic
        if name.startswith("rep"):
            return False
        if name.startswith(("movs", "cmps")) and name not in ("movsx", "movsxd"):
            return False
        stack = name in ("push", "pop")
        return not (stack and instruction.operands and instruction.operands[0].type == capstone.x86.X86_OP_MEM)

    @staticmethod
    def _writes_page_tables(instruction):
        if instruction.mnemonic.split()[-1] not in PAGE_TABLE_WRITERS:
            return False
        operands = instruction.operands
        return bool(operands) and operands[0].type == capstone.x86.X86_OP_MEM

    # -- execution

    def execute(self, instruction):
        """Execute what KVM's register emulation knows (MOV CRn, LMSW, CLTS, SMSW), without fetch and events."""
        return self._execute(bytes(instruction.bytes), instruction)

    def _execute(self, code, instruction):
        opcode = bytes(instruction.opcode[:2])
        if opcode == b"\x0f\x22" or opcode == b"\x0f\x20":
            return self._mov_cr(instruction, opcode[1] == CR_WRITES)
        if instruction.mnemonic == "invlpg":
            calls.invlpg(self.vm.handle, self.vcpu.index, signed(self.operand_address(instruction, 0)))
            self.hardware.skip_instruction(instruction.size)
            return RESUME
        if instruction.mnemonic in ("clts", "lmsw", "smsw"):
            return self._machine_status(instruction)
        if opcode[0] in STRING_IO:
            return self._string_io(instruction, opcode[0])
        return self._step(code)

    def operand_address(self, instruction, i):
        """Linear address of memory operand `i`."""
        mem = instruction.operands[i].mem
        value = mem.disp
        if mem.base:
            value += self._named_register(instruction, mem.base)
        if mem.index:
            value += self._named_register(instruction, mem.index) * mem.scale
        value &= (1 << 8 * instruction.addr_size) - 1
        names = {capstone.x86.X86_REG_ES: 0, capstone.x86.X86_REG_CS: 1, capstone.x86.X86_REG_SS: 2,
                 capstone.x86.X86_REG_DS: 3, capstone.x86.X86_REG_FS: 4, capstone.x86.X86_REG_GS: 5}
        stack_based = instruction.reg_name(mem.base) in ("esp", "ebp", "rsp", "rbp", "sp", "bp") if mem.base else False
        number = names[mem.segment] if mem.segment else (2 if stack_based else 3)
        if self.code_bits() == 64:
            return (value + (self.hardware.segment(number).base if number >= 4 else 0)) & (1 << 64) - 1
        return (value + self.hardware.segment(number).base) & 0xFFFFFFFF

    _NAMES = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")

    def _named_register(self, instruction, register):
        name = instruction.reg_name(register)
        if name in ("rip", "eip"):
            return self.hardware.rip + instruction.size
        width = 64 if name[0] == "r" and not name.endswith(("d", "w")) else 32 if name[0] in "er" else 16
        if name.endswith("w") and name[0] == "r":
            width = 16
        digits = name.strip("rdw")
        number = int(digits) if digits.isdigit() else self._NAMES.index(name[-2:])
        return self.hardware.gpr[number] & (1 << width) - 1

    def peek(self):
        """Decode at RIP from what the hardware shows at an exit (no walk): (bits, bytes, instruction or None)."""
        bits, code = self.code_bits(), self.hardware.instruction_bytes
        return bits, code, self._disassemble(bits, code)

    def word_operand(self, instruction, i):
        """Value of 16-bit operand `i`, a register or in memory.  Raises OperandFault."""
        operand = instruction.operands[i]
        if operand.type == capstone.x86.X86_OP_MEM:
            return int.from_bytes(self.memory.read(self.operand_address(instruction, i), 2), "little")
        return self._named_register(instruction, operand.reg) & 0xFFFF

    def step_over(self, code):
        """Let the stepper execute the instruction; an exception of its own is queued.  Raises OperandFault."""
        return self._step(code)

    def register_operand(self, instruction, i):
        """Value of register operand `i`."""
        return self._named_register(instruction, instruction.operands[i].reg)

    @staticmethod
    def cr_register(instruction):
        """Number of the general register of a MOV CRn."""
        return (instruction.modrm & 7) | (instruction.rex & 1) << 3

    @staticmethod
    def cr_number(instruction):
        """Number of the control register of a MOV CRn; LOCK MOV CR0 is CR8 on AMD."""
        number = (instruction.modrm >> 3 & 7) | (instruction.rex & 4) << 1
        return number + 8 if instruction.prefix[0] == 0xF0 else number

    def cr_source(self, instruction):
        """What a MOV to CRn would load."""
        value = self.hardware.gpr[self.cr_register(instruction)]
        return value if self.code_bits() == 64 else value & 0xFFFFFFFF

    def cr_target(self, instruction, value):
        """Complete the register side of a MOV from CRn."""
        self.hardware.gpr[self.cr_register(instruction)] = value if self.code_bits() == 64 else value & 0xFFFFFFFF

    def complete_cr(self, instruction, write):
        """A MOV CRn that real hardware would not have intercepted: no event, only its effect."""
        if write:
            self.write_cr(self.cr_number(instruction), self.cr_source(instruction))
        else:
            self.cr_target(instruction, self.read_cr(self.cr_number(instruction)))
        self.hardware.skip_instruction(instruction.size)

    def _mov_cr(self, instruction, write):
        cr = self.cr_number(instruction)
        if write:
            if self.write_cr(cr, self.cr_source(instruction)):
                self._gp()
                return RESUME
        else:
            self.cr_target(instruction, self.read_cr(cr))
        self.hardware.skip_instruction(instruction.size)
        return RESUME

    def write_cr(self, cr, value):
        """kvm_set_crN: True for #GP."""
        handle, index = self.vm.handle, self.vcpu.index
        self.vcpu.record.cs_l = int(self.code_bits() == 64)
        if cr == 0:
            return calls.set_cr0(handle, index, signed(value))
        if cr == 3:
            return calls.set_cr3(handle, index, signed(value))
        if cr == 4:
            return calls.set_cr4(handle, index, signed(value))
        if cr == 8:
            # kvm_set_cr8
            if value >> 4 == 0:
                self.userspace.task_priority = value
            return value >> 4 != 0
        raise EngineError(f"MOV to CR{cr} at {self.hardware.rip:#x} is not supported")

    def read_cr(self, cr):
        """The guest's value of a control register."""
        values = {0: self.vcpu.cr0, 2: self.hardware.cr2, 3: self.vcpu.cr3, 4: self.vcpu.cr4,
                  8: self.userspace.task_priority}
        if cr not in values:
            raise EngineError(f"MOV from CR{cr} at {self.hardware.rip:#x} is not supported")
        return values[cr]

    def _machine_status(self, instruction):
        cr0 = self.vcpu.cr0
        if instruction.mnemonic == "clts":
            failed = self.write_cr(0, cr0 & ~8)
        elif instruction.mnemonic == "lmsw":
            value = self.word_operand(instruction, 0)
            # LMSW can set PE but not clear it
            failed = self.write_cr(0, cr0 & ~0xE | value & 0xF)
        else:
            target = instruction.operands[0]
            if target.type == capstone.x86.X86_OP_MEM:
                self.memory.write(self.operand_address(instruction, 0), (cr0 & 0xFFFF).to_bytes(2, "little"))
            else:
                number = (instruction.modrm & 7) | (instruction.rex & 1) << 3
                width = target.size
                mask = (1 << 8 * width) - 1 if width < 4 else (1 << 64) - 1
                self.hardware.gpr[number] = self.hardware.gpr[number] & ~mask | cr0 & mask
            failed = False
        if failed:
            self._gp()
            return RESUME
        self.hardware.skip_instruction(instruction.size)
        return RESUME

    def _string_io(self, instruction, opcode):
        """INS and OUTS whose memory operand needs emulation; with REP until RCX reaches a multiple of 1024."""
        hw, mask = self.hardware, (1 << 8 * instruction.addr_size) - 1
        is_in, size = opcode < 0x6E, 1 if not opcode & 1 else 2 if 0x66 in instruction.prefix else 4
        if hw.cpl > hw.rflags >> 12 & 3:
            return FAILED       # the port's permission stands in the TSS; nobody has needed this yet
        repeat = instruction.prefix[0] in (0xF2, 0xF3)
        pointer = 7 if is_in else 6
        step = -size if hw.rflags & DIRECTION else size
        while not repeat or hw.gpr[1] & mask:
            address = self.operand_address(instruction, 0 if is_in else 1)
            if is_in:
                self.memory.write(address, self.userspace.port_read(hw.gpr[2] & 0xFFFF, size).to_bytes(size, "little"))
            else:
                self.userspace.port_write(hw.gpr[2] & 0xFFFF, size, int.from_bytes(self.memory.read(address, size), "little"))
            self._count(pointer, step, mask)
            if repeat:
                self._count(1, -1, mask)
            if not repeat or hw.gpr[1] & mask and not hw.gpr[1] & 0x3FF:
                break
        if not repeat or not hw.gpr[1] & mask:
            hw.skip_instruction(instruction.size)
        return RESUME

    def _count(self, register, change, mask):
        """Add to a register of the address size; 32-bit results clear the upper half."""
        old = self.hardware.gpr[register]
        value = (old & mask) + change & mask
        self.hardware.gpr[register] = value if mask > 0xFFFF else old & ~mask | value

    def _step(self, code):
        """The stepper executes; a REP string instruction goes on until RCX reaches a multiple of 1024, as KVM does."""
        room = self.hardware.room
        while True:
            result = self.stepper.step(self.hardware, code, self.memory)
            room -= 1
            if result.exception is not None:
                vector, error = result.exception
                calls.queue_exception(self.vm.handle, self.vcpu.index, vector, int(error is not None), error or 0)
                return RESUME
            if not result.repeats or not self.hardware.gpr[1] & 0x3FF or room <= 0:
                return RESUME
