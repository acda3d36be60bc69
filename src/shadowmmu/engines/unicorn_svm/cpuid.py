# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUID and MSRs as the guest sees them: the engine's CPU with what the MMU adds, and without what nobody here emulates.

    leaf 1       ECX: PCID by choice; x2APIC, MONITOR, OSXSAVE hidden or computed; hypervisor bit clear
    leaf 7       EBX: INVPCID with PCID;  SMEP, SMAP as the engine has them;  ECX: LA57 by choice, PKU hidden
    80000001     ECX: SVM by choice
    8000000A     SVM's features by choice
    80000008     EAX: MAXPHYADDR of the vCPU
With several CPUs they are cores of one package, one thread each, APIC IDs 0 to N-1 (leaves 1, B, 80000001, 80000008, 8000001E).
"""

from ...x86.bits import CR4_OSXSAVE

PCID, X2APIC, MONITOR, OSXSAVE, HYPERVISOR = 1 << 17, 1 << 21, 1 << 3, 1 << 27, 1 << 31
INVPCID, LA57, PKU, OSPKE = 1 << 10, 1 << 16, 1 << 3, 1 << 4
SVM = 1 << 2
HTT, CMP_LEGACY = 1 << 28, 1 << 1
LEVEL_THREAD, LEVEL_CORE = 1, 2
#: EDX of leaf 8000000A: nested paging, VMCB clean bits, FLUSHBYASID, the address check of SVM instructions.
SVM_NPT, SVM_CLEAN_BITS, SVM_FLUSHBYASID, SVM_ADDRESS_CHECK = 1, 1 << 5, 1 << 6, 1 << 28


def topology(leaf, subleaf, words, cpu, cpus):
    """The same answer for CPU number `cpu` of `cpus`."""
    eax, ebx, ecx, edx = words
    bits = (cpus - 1).bit_length()
    if leaf == 1:
        return eax, ebx & 0xFFFF | cpus << 16 | cpu << 24, ecx, edx | HTT
    if leaf == 0xB:
        levels = ((0, 1, LEVEL_THREAD << 8), (bits, cpus, LEVEL_CORE << 8 | 1))
        shift, count, kind = levels[subleaf] if subleaf < 2 else (0, 0, subleaf)
        return shift, count, kind, cpu
    if leaf == 0x80000001:
        return eax, ebx, ecx | CMP_LEGACY, edx
    if leaf == 0x80000008:
        return eax, ebx, ecx & ~0xF0FF | bits << 12 | cpus - 1, edx
    if leaf == 0x8000001E:
        return cpu, cpu, 0, 0
    return words


def guest_cpuid(vcpu, hardware, leaf, subleaf, *, la57=False, svm=False, svm_features=0):
    """(eax, ebx, ecx, edx) for the guest; `vcpu` decides about PCID and MAXPHYADDR."""
    eax, ebx, ecx, edx = hardware.native_cpuid(leaf, subleaf)
    pcid = vcpu.record.has_pcid
    if leaf == 1:
        ecx = (ecx & ~(X2APIC | MONITOR | OSXSAVE | HYPERVISOR | PCID)) | (PCID if pcid else 0)
        if vcpu.cr4 & CR4_OSXSAVE:
            ecx |= OSXSAVE
    elif leaf == 7 and subleaf == 0:
        ebx = ebx & ~INVPCID | (INVPCID if pcid else 0)
        ecx = ecx & ~(PKU | OSPKE | LA57) | (LA57 if la57 else 0)
    elif leaf == 0x80000001:
        ecx = ecx & ~SVM | (SVM if svm else 0)
    elif leaf == 0x8000000A:
        # revision, ASIDs, features
        eax, ebx, ecx, edx = (1, 8, 0, svm_features) if svm else (0, 0, 0, 0)
    elif leaf == 0x80000008:
        eax = eax & ~0xFFFF | (57 if la57 else 48) << 8 | vcpu.record.maxphyaddr
    elif leaf == 0xA:
        eax = ebx = ecx = edx = 0
    return eax, ebx, ecx, edx


#: MSRs that hold what was written and mean nothing here: index -> value after reset.
PLAIN_MSRS = {
    0x10: 0,                    # TSC: the virtual clock, writes are ignored
    0x1B: 0xFEE00900,           # APIC base: enabled, boot processor
    0x8B: 0x1000065,            # microcode revision
    0xFE: 0x508, 0x2FF: 0x800,  # MTRR capabilities, default type
    0x277: 0x0007040600070406,  # PAT
    0x179: 0x20, 0x17A: 0, 0x1D9: 0, 0x1A0: 1, 0x3B: 0, 0x122: 0, 0x140: 0,
    0xC0000103: 0,              # TSC_AUX
    0xC0010010: 0, 0xC0010015: 0x1000010, 0xC001001F: 0, 0xC0010055: 0, 0xC0010114: 0, 0xC0010117: 0,
    0xC0010140: 0, 0xC0010141: 0, 0xC0011029: 2,
    **{0x200 + i: 0 for i in range(16)},            # variable MTRRs
    **{i: 0 for i in (0x250, 0x258, 0x259)}, **{0x268 + i: 0 for i in range(8)},
}
#: Machine check banks, as many as MSR 0x179 says: CTL, STATUS, ADDR, MISC of each.  A kernel reads them all when it boots
#: and panics on a #GP.
BANK_MSRS, BANK_CTL, BANK_STATUS = range(0x400, 0x400 + 4 * PLAIN_MSRS[0x179]), 0, 1
PLAIN_MSRS |= {index: (1 << 64) - 1 if index & 3 == BANK_CTL else 0 for index in BANK_MSRS}
HWCR, HWCR_STATUS_WRITABLE = 0xC0010015, 1 << 18
TSC, TSC_AUX, EFER, APIC_BASE = 0x10, 0xC0000103, 0xC0000080, 0x1B
APIC_BOOT_PROCESSOR = 1 << 8


def machine_check_refuses(index, value, hwcr):
    """set_msr_mce: is a guest's write to one of the machine check registers a #GP?"""
    if index not in BANK_MSRS:
        return False
    if index & 3 == BANK_CTL:
        # all or nothing, but for bits that Linux leaves clear: 10, the GART of old AMD CPUs, and 0, an Intel erratum
        return value != 0 and value | 1 << 10 | 1 != (1 << 64) - 1
    # errors are cleared by software, not made, but for tests (AMD: HWCR.McStatusWrEn)
    return index & 3 == BANK_STATUS and value != 0 and not hwcr & HWCR_STATUS_WRITABLE


#: Performance counters of a machine without any: they read 0, writes are ignored (kvm_set_msr_common does the same).
IGNORED_MSRS = frozenset({*range(0xC0010000, 0xC0010008), *range(0xC0010200, 0xC001020C)})
