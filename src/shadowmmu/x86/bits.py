# SPDX-License-Identifier: GPL-2.0-or-later
"""Bits of registers, paging entries and page-fault error codes, with the manuals' and the kernel's names.

All values are Python ints meant for signed 64-bit arithmetic: bit 63 is the sign, hence `NX`.
Sources: SDM vol. 3 ch. 2.5 (control registers), 4 (paging); APM vol. 2 ch. 3.1, 5.
"""

# CR0
CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = 1 << 16, 1 << 18, 1 << 29, 1 << 30, 1 << 31
CR0_DEFINED = (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

# CR3 with PCIDs
CR3_NOFLUSH = -(1 << 63)
CR3_PCID_MASK = 0xFFF

# CR4
CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PSE, CR4_PAE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
CR4_MCE, CR4_PGE, CR4_PCE, CR4_OSFXSR, CR4_OSXMMEXCPT = 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10
CR4_UMIP, CR4_LA57, CR4_VMXE, CR4_SMXE, CR4_FSGSBASE = 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 16
CR4_PCIDE, CR4_OSXSAVE, CR4_SMEP, CR4_SMAP, CR4_PKE = 1 << 17, 1 << 18, 1 << 20, 1 << 21, 1 << 22
CR4_DEFINED = (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR
               | CR4_OSXMMEXCPT | CR4_UMIP | CR4_LA57 | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP
               | CR4_SMAP | CR4_PKE)

# EFER
EFER_SCE, EFER_LME, EFER_LMA, EFER_NX, EFER_SVME = 1 << 0, 1 << 8, 1 << 10, 1 << 11, 1 << 12
EFER_LMSLE, EFER_FFXSR = 1 << 13, 1 << 14
EFER_DEFINED = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX | EFER_SVME | EFER_LMSLE | EFER_FFXSR

# Paging entries (all formats); the frame field starts at bit 12 whatever the size of a page
PT_PRESENT, PT_WRITABLE, PT_USER, PT_PWT, PT_PCD = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
PT_ACCESSED, PT_DIRTY, PT_PAGE_SIZE, PT_GLOBAL = 1 << 5, 1 << 6, 1 << 7, 1 << 8
NX_SHIFT = 63
NX = -(1 << 63)
FRAME_SHIFT = 12
FRAME_MASK = ((1 << 52) - 1) & ~((1 << 12) - 1)
PKEY_SHIFT, PKEY_MASK = 59, 0xF

# Page-fault error code (PFEC)
PFERR_PRESENT, PFERR_WRITE, PFERR_USER, PFERR_RSVD, PFERR_FETCH, PFERR_PK = 1, 2, 4, 8, 16, 32
PFERR_GUEST_FINAL, PFERR_GUEST_PAGE = 1 << 32, 1 << 33
#: KVM's own: an access with supervisor privilege that the CPU does on its own behalf (descriptor tables); SMAP
#: applies to it whatever EFLAGS.AC says.
PFERR_IMPLICIT_ACCESS = 1 << 48

# Vectors
DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS, NP, SS, GP, PF, MF, AC, MC, XM = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19)

# RFLAGS
RFLAGS_TF, RFLAGS_IF, RFLAGS_RF, RFLAGS_VM, RFLAGS_AC = 1 << 8, 1 << 9, 1 << 16, 1 << 17, 1 << 18
