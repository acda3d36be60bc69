# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers that the kernel prints as words: exit reasons, vectors, page-fault flags, reasons to go to user space.

The tables are those of the tracepoints' print formats (`events/kvm/*/format`); `symbol` and `flags` treat an unknown
number as the kernel's __print_symbolic and __print_flags do.
"""

#: SVM exit codes (asm/svm.h) as `kvm_exit` prints them.
SVM_EXITS = {
    **{0x00 + n: f"read_cr{n}" for n in (0, 2, 3, 4, 8)}, **{0x10 + n: f"write_cr{n}" for n in (0, 2, 3, 4, 8)},
    **{0x20 + n: f"read_dr{n}" for n in range(8)}, **{0x30 + n: f"write_dr{n}" for n in range(8)},
    **{0x40 + n: f"{name} excp" for n, name in (
        (0, "DE"), (1, "DB"), (3, "BP"), (4, "OF"), (5, "BR"), (6, "UD"), (7, "NM"), (8, "DF"), (10, "TS"), (11, "NP"),
        (12, "SS"), (13, "GP"), (14, "PF"), (16, "MF"), (17, "AC"), (18, "MC"), (19, "XF"))},
    **dict(enumerate((
        "interrupt", "nmi", "smi", "init", "vintr", "cr0_sel_write", "read_idtr", "read_gdtr", "read_ldtr", "read_rt",
        "write_idtr", "write_gdtr", "write_ldtr", "write_rt", "rdtsc", "rdpmc", "pushf", "popf", "cpuid", "rsm",
        "iret", "swint", "invd", "pause", "hlt", "invlpg", "invlpga", "io", "msr", "task_switch", "ferr_freeze",
        "shutdown", "vmrun", "hypercall", "vmload", "vmsave", "stgi", "clgi", "skinit", "rdtscp", "icebp", "wbinvd",
        "monitor", "mwait"), 0x60)),
    0x8D: "xsetbv", 0x8F: "write_efer_trap", 0x90: "write_cr0_trap", 0x94: "write_cr4_trap", 0x98: "write_cr8_trap",
    0xA2: "invpcid", 0x400: "npf", 0x401: "avic_incomplete_ipi", 0x402: "avic_unaccelerated_access",
    0x403: "vmgexit", 0x80000001: "vmgexit_mmio_read", 0x80000002: "vmgexit_mmio_write",
    0x80000003: "vmgexit_nmi_complete", 0x80000004: "vmgexit_ap_hlt_loop", 0x80000005: "vmgexit_ap_jump_table",
    0x80000010: "vmgexit_page_state_change", 0x80000011: "vmgexit_guest_request",
    0x80000012: "vmgexit_ext_guest_request", 0x80000013: "vmgexit_ap_creation",
    0x8000FFFD: "vmgexit_hypervisor_feature", 0xFFFFFFFF: "invalid_guest_state",
}
#: Codes that later kernels know too.
SVM_EXITS_7_2 = SVM_EXITS | {0xA5: "buslock", 0xA6: "idle-halt"}

#: VMX basic exit reasons (asm/vmx.h).
VMX_EXITS = {
    **{number: name for number, name in enumerate((
        "EXCEPTION_NMI", "EXTERNAL_INTERRUPT", "TRIPLE_FAULT", "INIT_SIGNAL", "SIPI_SIGNAL", None, None,
        "INTERRUPT_WINDOW", "NMI_WINDOW", "TASK_SWITCH", "CPUID", None, "HLT", "INVD", "INVLPG", "RDPMC", "RDTSC",
        None, "VMCALL", "VMCLEAR", "VMLAUNCH", "VMPTRLD", "VMPTRST", "VMREAD", "VMRESUME", "VMWRITE", "VMOFF", "VMON",
        "CR_ACCESS", "DR_ACCESS", "IO_INSTRUCTION", "MSR_READ", "MSR_WRITE", "INVALID_STATE", "MSR_LOAD_FAIL", None,
        "MWAIT_INSTRUCTION", "MONITOR_TRAP_FLAG", None, "MONITOR_INSTRUCTION", "PAUSE_INSTRUCTION",
        "MCE_DURING_VMENTRY", None, "TPR_BELOW_THRESHOLD", "APIC_ACCESS", "EOI_INDUCED", "GDTR_IDTR", "LDTR_TR",
        "EPT_VIOLATION", "EPT_MISCONFIG", "INVEPT", "RDTSCP", "PREEMPTION_TIMER", "INVVPID", "WBINVD", "XSETBV",
        "APIC_WRITE", "RDRAND", "INVPCID", "VMFUNC", "ENCLS", "RDSEED", "PML_FULL", "XSAVES", "XRSTORS", None, None,
        "UMWAIT", "TPAUSE")) if name},
    74: "BUS_LOCK", 75: "NOTIFY",
}
VMX_EXITS_7_2 = VMX_EXITS | {77: "TDCALL", 84: "MSR_READ_IMM", 85: "MSR_WRITE_IMM"}
VMX_FAILED_ENTRY = 1 << 31

#: Vectors as `kvm_inj_exception` prints them; 7.2 knows more.
VECTORS = {n: f"#{name}" for n, name in (
    (0, "DE"), (1, "DB"), (3, "BP"), (4, "OF"), (5, "BR"), (6, "UD"), (7, "NM"), (8, "DF"), (10, "TS"), (11, "NP"),
    (12, "SS"), (13, "GP"), (14, "PF"), (16, "MF"), (17, "AC"), (18, "MC"))}
VECTORS_7_2 = VECTORS | {19: "#XM", 20: "#VE", 21: "#CP", 28: "#HV", 29: "#VC", 30: "#SX"}

#: Page-fault error code flags in print order; 7.2 knows more.
PFERR = ((1, "P"), (2, "W"), (4, "U"), (8, "RSVD"), (16, "F"))
PFERR_7_2 = ((1, "P"), (2, "W"), (4, "U"), (32, "PK"), (64, "SS"), (1 << 15, "SGX"), (8, "RSVD"), (16, "F"))

#: KVM_EXIT_* (uapi linux/kvm.h) as `kvm_userspace_exit` prints them.
USERSPACE_EXITS = {n: f"KVM_EXIT_{name}" for n, name in enumerate((
    "UNKNOWN", "EXCEPTION", "IO", "HYPERCALL", "DEBUG", "HLT", "MMIO", "IRQ_WINDOW_OPEN", "SHUTDOWN", "FAIL_ENTRY",
    "INTR", "SET_TPR", "TPR_ACCESS", "S390_SIEIC", "S390_RESET", "DCR", "NMI", "INTERNAL_ERROR", "OSI", "PAPR_HCALL",
    "S390_UCONTROL", "WATCHDOG", "S390_TSCH", "EPR", "SYSTEM_EVENT", "S390_STSI", "IOAPIC_EOI", "HYPERV", "ARM_NISV",
    "X86_RDMSR", "X86_WRMSR"))}

MMIO_TYPES = {0: "unsatisfied-read", 1: "read", 2: "write"}

#: Modes of the instruction emulator, as our events number them, and as the tracepoint's `flags` do.
EMULATOR_MODES = ("real", "vm16", "prot16", "prot32", "prot64")
EMULATOR_FLAGS = {0: "real", 3: "vm16", 1: "prot16", 5: "prot32", 9: "prot64"}


def symbol(table, value):
    """__print_symbolic: the name, or the number in hex."""
    name = table.get(value)
    return name if name is not None else f"0x{value:x}"


def flags(table, value):
    """__print_flags with "|": names of the set bits in table order, then what is left in hex."""
    parts = []
    for bit, name in table:
        if value & bit:
            parts.append(name)
            value &= ~bit
    if value:
        parts.append(f"0x{value:x}")
    return "|".join(parts)


#: What kvm_nested_vmenter_failed says, by the number of the check (nested_svm).
NESTED_CHECKS = (
    "!(save->efer & EFER_SVME)",
    "(save->cr0 & X86_CR0_CD) == 0 && (save->cr0 & X86_CR0_NW)",
    "save->cr0 & ~0xffffffffULL",
    "!kvm_dr6_valid(save->dr6)",
    "!kvm_dr7_valid(save->dr7)",
    "!(save->cr4 & X86_CR4_PAE)",
    "!(save->cr0 & X86_CR0_PE)",
    "!kvm_vcpu_is_legal_cr3(vcpu, save->cr3)",
    "!__kvm_is_valid_cr4(vcpu, save->cr4)",
    "!kvm_valid_efer(vcpu, save->efer)",
    "!vmcb12_is_intercept(control, INTERCEPT_VMRUN)",
    "control->asid == 0",
    "(control->nested_ctl & SVM_NESTED_CTL_NP_ENABLE) && !npt_enabled",
    "!nested_svm_check_bitmap_pa(vcpu, control->msrpm_base_pa, MSRPM_SIZE)",
    "!nested_svm_check_bitmap_pa(vcpu, control->iopm_base_pa, IOPM_SIZE)",
    "!kvm_vcpu_is_legal_cr3(vcpu, cr3)",
    "!load_pdptrs(vcpu, cr3)",
)
