# SPDX-License-Identifier: GPL-2.0-or-later
"""Exit codes: the numbers of the AMD APM, volume 2, appendix C, as `on_exit` receives them.

At every exit RIP is the address of the instruction that caused it (fault-like), also for INT n and INT3.

| code           | name               | what is there to read, and who completes the instruction              |
|----------------|--------------------|-----------------------------------------------------------------------|
| 0x00 + n       | READ_CR0 + n       | n = 0 3 4 8; MOV from CRn, SMSW; caller completes                     |
| 0x10 + n       | WRITE_CR0 + n      | n = 0 3 4 8; MOV to CRn, LMSW, CLTS; caller completes                 |
| 0x20 + n       | READ_DR0 + n       | caller completes                                                      |
| 0x30 + n       | WRITE_DR0 + n      | caller completes                                                      |
| 0x40 + vector  | EXCEPTION + vector | `error_code`; only vectors in `exception_intercepts`                  |
| 0x4e           | PAGE_FAULT         | `fault_address`, `error_code`; return True to retry                   |
| 0x60           | INTR               | somebody called `kick`; nothing to complete                           |
| 0x64           | VINTR              | the interrupt window asked for is open (IF=1, no shadow)              |
| 0x6a .. 0x6d   | IDTR_WRITE, GDTR.. | LIDT, LGDT, LLDT, LTR; off by default; caller completes               |
| 0x6e           | RDTSC              | RDTSC and RDTSCP (no code 0x87 in this engine); caller completes       |
| 0x6f           | RDPMC              | caller completes                                                      |
| 0x72           | CPUID              | caller completes (`native_cpuid` has the engine's answer)             |
| 0x74           | IRET               | off by default; the engine completes when it is off again, or caller  |
| 0x75           | SWINT              | `software_vector`, `instruction_length`; caller queues the event      |
| 0x77           | PAUSE              | off by default; caller completes                                      |
| 0x78           | HLT                | caller completes                                                      |
| 0x79, 0x7a     | INVLPG, INVLPGA    | caller completes; address from the instruction (`emulate`)             |
| 0x7b           | IOIO               | `io`; the engine completes; for IN the caller sets `io.value`         |
| 0x7c           | MSR                | `error_code` 0 = RDMSR, 1 = WRMSR; caller completes                   |
| 0x7d           | TASK_SWITCH        | an event meets a task gate: `fault_address` is the TSS's selector,    |
|                |                    | `interrupted_event`                                                   |
| 0x7f           | SHUTDOWN           | triple fault; the guest cannot continue                               |
| 0x80 .. 0x86   | VMRUN .. SKINIT    | caller completes                                                      |
| 0x8a, 0x8b     | MONITOR, MWAIT     | caller completes                                                      |
| 0x3f0          | ROOT_CHANGED       | no code of AMD's: the engine loaded CR3 without an exit, which a JMP  |
|                |                    | or CALL to a TSS makes it do; cannot be completed                     |
| 0x400          | NPF                | with nested paging: `fault_address` (guest-physical), `error_code`    |

"Caller completes" means: do the work, then `skip_instruction(length)`. SYSCALL, SYSRET, SYSENTER, SYSEXIT,
IRET, INVD, WBINVD, SWAPGS and far transfers run natively and make no exit.
"""

READ_CR0 = 0x00
WRITE_CR0 = 0x10
READ_DR0 = 0x20
WRITE_DR0 = 0x30
EXCEPTION = 0x40
PAGE_FAULT = EXCEPTION + 14
INTR = 0x60
NMI = 0x61
SMI = 0x62
INIT = 0x63
VINTR = 0x64
IDTR_WRITE = 0x6A
GDTR_WRITE = 0x6B
LDTR_WRITE = 0x6C
TR_WRITE = 0x6D
RDTSC = 0x6E
RDPMC = 0x6F
CPUID = 0x72
IRET = 0x74
SWINT = 0x75
PAUSE = 0x77
HLT = 0x78
INVLPG = 0x79
INVLPGA = 0x7A
IOIO = 0x7B
MSR = 0x7C
TASK_SWITCH = 0x7D
ROOT_CHANGED = 0x3F0
SHUTDOWN = 0x7F
VMRUN = 0x80
VMMCALL = 0x81
VMLOAD = 0x82
VMSAVE = 0x83
STGI = 0x84
CLGI = 0x85
SKINIT = 0x86
NPF = 0x400
ICEBP = 0x88
MONITOR = 0x8A
MWAIT = 0x8B

# Event types of EVENTINJ and EXITINTINFO
EVENT_INTERRUPT = 0
EVENT_NMI = 2
EVENT_EXCEPTION = 3
EVENT_SOFTWARE = 4
EVENT_ERROR_VALID = 1 << 11
EVENT_VALID = 1 << 31

CONTRIBUTORY = (1 << 0) | (1 << 10) | (1 << 11) | (1 << 12) | (1 << 13)
HAS_ERROR_CODE = (1 << 8) | (1 << 10) | (1 << 11) | (1 << 12) | (1 << 13) | (1 << 14) | (1 << 17)
# Fault-class exceptions: all but the traps #BP and #OF, the aborts #DF and #MC, NMI, and #DB.
FAULTS = 0xFFFFFFFF & ~((1 << 1) | (1 << 2) | (1 << 3) | (1 << 4) | (1 << 8) | (1 << 18))
