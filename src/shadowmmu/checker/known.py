# SPDX-License-Identifier: GPL-2.0-or-later
"""Known deviations of real KVM: behaviour that the architecture does not permit and that our rules share with the kernel.

    shadowmmu check --aside other-pcids --aside pse-role      searches for what else there is

Each has a name, a story, what setting it aside does (it widens what is permitted by exactly that deviation, or leaves out
the operation that alone leads to it), and the smallest script known (None: withheld).
"""

from collections import namedtuple

#: aside: in words, or the rule (rules/fields.py) that is switched on.
Deviation = namedtuple("Deviation", "bit story aside script")
Rule = namedtuple("Rule", "name")

OTHER_PCIDS, NX_ROLE, PSE_ROLE, MMIO_WRITABLE, FAULT_KEEPS, SMM_PROTECTION, CACHE_WARNING, CPUID_ROLE, FETCH_FLAG, \
    WRITE_WINDOW, PDPTRS_EARLY, INVLPG_NOTIFIER, MMIO_RESYNC, PAE_ROOT, ALIAS_RMAP, EPT_EMULATED_READ, VIOLATION_KEEPS, \
    EPT_SHARED, EPT_TABLE_WRITE, NESTED_ROOT, WALK_UNTRACKED, MMIO_CLEAN, INVPCID_OTHER, \
    PRE_FAULT_STALE = (1 << i for i in range(24))

DEVIATIONS = {
    "other-pcids": Deviation(
        OTHER_PCIDS,
        "A CPU fills its TLB under the current PCID only (SDM vol. 3 4.10.2.2).  KVM keeps a cached root of another PCID "
        "through INVPCID type 2 and 3 and CR4.PGE (kvm_mmu_sync_prev_roots frees only those that are unsync "
        "at that moment); "
        "a table that both roots share and that becomes unsync later is stale in it after MOV CR3 NOFLUSH.",
        "the TLB of a PCID may be filled from its cached root while another PCID is current",
        """machine pcid
v0 mov cr3 = root(gfn=1, pcid=2, noflush)
v0 invpcid 3 pcid=0 0x60
v0 store 0x18 = pte(gfn=9, P|W|U)
v0 mov cr3 = root(gfn=1, noflush)
"""),
    "nx-role": Deviation(
        NX_ROLE,
        "With EFER.NXE=0 bit 63 of an entry is reserved and must fault (SDM vol. 3 4.4.2, 4.5.4).  KVM "
        "forces efer_nx in the role "
        "of every shadow page (112022bdb5bc), so pages made with NXE=1 are used again after it is cleared, "
        "whatever is flushed.",
        "all shadow pages are zapped when EFER.NXE changes; with two vCPUs it never changes",
        """machine pcid
v0 store 0x28 = pte(gfn=9, P|W|U|A|D|NX)
v0 fetch 0x1e0 user
v0 wrmsr efer = LME
v0 mov cr3 = root(gfn=1, pcid=2)
"""),
    "pse-role": Deviation(
        PSE_ROLE,
        "With CR4.PSE=0 bit 7 of a PDE is ignored and the entry refers to a page table (SDM vol. 3 4.3); a "
        "change of CR4.PSE "
        "flushes (APM vol. 2 5.5.2).  CR4.PSE is in the extended role of the MMU, not in the role of a page, so the shadow "
        "of the page directory keeps its 4M entries.",
        "all shadow pages are zapped when CR4.PSE changes; with two vCPUs it never changes",
        """machine 32-bit
v0 load 0x200
v0 mov cr4 = 0
"""),
    "mmio-writable": Deviation(
        MMIO_WRITABLE,
        "An MMIO spte that waits to be replaced is taken for something else.  For a private report to the kernel's "
        "maintainers: details and script are withheld (docs/findings.md).",
        Rule("strict_old_spte"),
        None),
    "fault-keeps": Deviation(
        FAULT_KEEPS,
        "On an Intel CPU a #PF removes the translations of its address (SDM vol. 3 4.10.4.1).  "
        "kvm_inject_emulated_page_fault does "
        "so only for faults with P=1 and RSVD=0: after another one an old, more permissive translation can still be used.",
        "a #PF removes nothing",
        """machine intel
v0 store 0x10 = pte(gfn=8589934600, P|W|U|A|D)
v0 store 0x40 = pte(gfn=8, P|W|U|A|D)
"""),
    "smm-protection": Deviation(
        SMM_PROTECTION,
        "account_shadowed() write-protects a new page table, and mmu_sync_children() a synced one, in the memslots of one "
        "address space only.  A gfn that is "
        "mapped writable outside SMM stays so when it becomes a page table of a vCPU in SMM (and the other way round): stores "
        "through that mapping never mark the table's shadow page unsync.  (Write tracking looks at every address space since "
        "0f38453cdb2e; this protection does not.)  Nor does hugepage_adjust(): lpage_info is per address space, so a large page "
        "of SMM may cover a page table of the other one and be writable.",
        Rule("protect_all_address_spaces"),
        """machine 4-level
v0 store 0x38 = pte(gfn=12, P|W|U|A|D)
v0 smm enter
v0 fetch 0x1a0 user
v0 smm leave
v0 store 0x28 = pte(gfn=9, P|W|U|A|D)
"""),
    "cpuid-role": Deviation(
        CPUID_ROLE,
        "Bits of an entry from MAXPHYADDR on are reserved (SDM vol. 3 4.5.4).  CPUID is not in the role of a page "
        "(kvm_mmu_after_set_cpuid says so), so pages made under a larger MAXPHYADDR are used again.  Since feb627e8d6f6 (5.16) "
        "KVM refuses another CPUID once a vCPU has run; before that it was a comment in the documentation.",
        "all shadow pages are zapped when MAXPHYADDR changes; with two vCPUs it never changes",
        None),
    "fetch-flag": Deviation(
        FETCH_FLAG,
        "The I/D flag of an error code needs CR4.SMEP, or EFER.NXE together with CR4.PAE (SDM vol. 3 4.7; APM vol. 2 8.4.2).  "
        "KVM asks for SMEP or NXE alone (FNAME(walk_addr_generic)), so in 32-bit paging with NXE=1 a fetch that faults "
        "reports I/D.",
        "in 32-bit paging with NXE=1 the I/D flag of a fetch may be set",
        """machine pae
v0 mov cr4 = 0
v0 fetch 0x140
"""),
    "pdptrs-early": Deviation(
        PDPTRS_EARLY,
        "An instruction that raises #GP changes nothing (SDM vol. 3 6.5).  In PAE paging kvm_set_cr4() loads the PDPTE registers "
        "because SMEP, PGE, PSE or PAE changes, and refuses PCIDE afterwards, because EFER.LMA is 0 (SDM vol. 3 4.10.1): after "
        "the #GP the CPU uses PDPTEs that no MOV CR has loaded.",
        "a MOV CR4 that is refused for PCIDE loads the PDPTE registers",
        """machine pae
v0 mov cr4 = PAE|SMEP
v0 store 0x60 = 0
v0 mov cr4 = PAE|PCIDE
v0 load 0x20
"""),
    "write-window": Deviation(
        WRITE_WINDOW,
        "An emulated write to a page table is in memory before kvm_mmu_track_write() takes mmu_lock and zaps the sptes it "
        "concerns.  Another vCPU that reads the new entry in between and flushes its TLB still uses the old one: its sync "
        "does not look at pages that are not unsync.",
        "translations are not judged while an emulated write is in memory and not tracked, and no vCPU notes MMIO in between",
        """machine 4-level
vcpus 2
v1 load 0x80
v0 store 0x48 = pte(gfn=4, P|W|U|A|D) emulated begin
v1 mov cr3 = root(gfn=1)
"""),
    "invlpg-notifier": Deviation(
        INVLPG_NOTIFIER,
        "Until 6.4 (9fd4a4e3a3d9) INVLPG, and a #PF that KVM injects, may map a page that the host is taking away at this "
        "moment.  For a private report to the kernel's maintainers: details and script are withheld (docs/findings.md).",
        "under rules of such kernels the range of a notifier is zapped once more before its pages go",
        None),
    "mmio-resync": Deviation(
        MMIO_RESYNC,
        "A new memslot makes all MMIO sptes stale by the generation in them.  sync_mmio_spte() marks an MMIO spte of an unsync "
        "page anew, with the current generation, and does not look whether its gfn has memory now: the guest goes on getting "
        "the device.",
        Rule("mmio_sync_looks"),
        """machine 4-level
v0 load 0xc0
v0 store 0x20 = 0
host memslot create 3 gfn=14 pages=2 hva=14
v0 mov cr3 = root(gfn=1)
"""),
    "nested-root": Deviation(
        NESTED_ROOT,
        "A shadow page of L1's nested tables that loses its last parent is zapped although it is a root that a vCPU uses, and "
        "leaves the "
        "active list while zap_obsolete_pages() walks it.  Mended upstream by 7a2c70e777a0 (museum A6); kernels without it, "
        "6.12.0 and "
        "6.1 among them, need it.  Details of what a guest can do with it are withheld (docs/findings.md).",
        Rule("nested_roots_survive"),
        None),
    "walk-untracked": Deviation(
        WALK_UNTRACKED,
        "KVM's own walk of a guest's tables sets A and D by a write that the MMU is not told of "
        "(FNAME(update_accessed_dirty_bits) "
        "uses __try_cmpxchg_user).  Where L2's tables lie in a page of L1's nested tables, bits of one format mean another "
        "thing in "
        "the other: the shadow of the nested table is stale, is not unsync, and INVEPT does not mend it.",
        "translations are not judged any more when an access of L2 has changed a nested table in this way",
        """machine ept-l2
v0 vm entry eptp(gfn=1, levels=4, ad) vpid=0
v0 store 0x60 = pte(gfn=7, P|W|G)
v0 store 0x18 = pte(gfn=8, P|PCD|A|G|0x200)
v0 invept 1 eptp(gfn=1, levels=4, ad)
v0 vm entry eptp(gfn=1, levels=4, ad) vpid=0
"""),
    "violation-keeps": Deviation(
        VIOLATION_KEEPS,
        "An EPT violation removes the guest-physical mappings of its address (SDM vol. 3 29.4.3.1), and none can come back "
        "before the "
        "next VM entry (29.4.2), so what L1 then writes into the EPT entry needs no INVEPT on this CPU.  "
        "nested_ept_inject_page_fault() syncs what is unsync when the violation is injected; the entry that L1 writes afterwards "
        "makes the table unsync, VM entry syncs nothing, and L2 still uses the old frame.",
        "an EPT violation leaves what the tables say at that moment",
        """machine ept
v0 vm entry eptp(gfn=6, levels=4, ad) vpid=1
v0 load 0xa0
v0 store 0xa0 = 0
v0 store 0xa8 = pte(gfn=5, P|U|PCD|A|G|0x200)
v0 vm entry eptp(gfn=6, levels=4, ad) vpid=1
"""),
    "ept-shared": Deviation(
        EPT_SHARED,
        "Guest-physical mappings are those of one logical processor and one EP4TA (SDM vol. 3 29.4.1, 29.4.2).  Shadow pages "
        "of an EPT "
        "belong to all vCPUs and to every root that leads to them, and VM entry syncs nothing: L2 uses what another vCPU, or "
        "L2 under "
        "another EPTP, has filled in from entries that have changed since.",
        "every vCPU may cache of an EPT what one may, at any time, for every EPTP that KVM has a root for",
        """machine ept
vcpus 2
v1 vm entry eptp(gfn=1, levels=4, ad) vpid=2
v0 vm entry eptp(gfn=1, levels=4, ad) vpid=1
v1 vm exit
v1 store 0xb8 = pte(gfn=9, P|W|U|PCD|A|G|0x200)
v0 fetch 0x1c0
v1 store 0xb8 = pte(gfn=8, P|W|U|PCD|A|G)
v1 vm entry eptp(gfn=1, levels=4, ad) vpid=2
"""),
    "ept-table-write": Deviation(
        EPT_TABLE_WRITE,
        "Where L1's EPT has no A and D bits, a walk of L2's tables reads them (SDM vol. 3 29.3.3.2).  KVM's emulator asks for "
        "the right "
        "to write them (nested_access in FNAME(walk_addr_generic) depends on the A and D bits of L2's own format): L2's "
        "tables on "
        "read-only pages give an EPT violation that no CPU would raise.",
        "an emulated access of L2 may take its tables for written",
        """machine ept-l2
v0 vm entry eptp(gfn=6, levels=4) vpid=2
v0 store 0xa0 = 0 emulated
"""),
    "ept-emulated-read": Deviation(
        EPT_EMULATED_READ,
        "Bit 0 of the exit qualification of an EPT violation says that the access was a data read (SDM vol. 3 table 28-7).  When "
        "KVM's emulator translates an address of L2, translate_nested_gpa() makes every access a user access, and "
        "FNAME(walk_addr_generic) for EPT takes the user flag for a read: a store and a fetch are told as reads, too, and a "
        "fetch from "
        "an execute-only page is refused.",
        "an emulated access may be a read, too",
        """machine ept
v0 vm entry eptp(gfn=6, levels=4, ad) vpid=2
v0 store 0xa0 = pte(gfn=8, P|W|U|PCD|A|G|0x200) emulated
"""),
    "mmio-clean": Deviation(
        MMIO_CLEAN,
        "A write sets the D bit of the entry that maps the page (SDM vol. 3 4.8).  The per-vCPU MMIO cache keeps the access of "
        "the walk that filled it, in which W is missing as long as D is clear.  With CR0.WP=0 a supervisor's write needs no W, "
        "so vcpu_mmio_gva_to_gpa() answers it from the cache, without a walk, and D stays clear.",
        Rule("mmio_write_needs_w"),
        """machine 4-level
v0 mov cr0 = PE|ET|PG
v0 store 0x20 = pte(gfn=14, P|W|U|A)
v0 load 0x80
v0 store 0x80 = 0
"""),
    "invpcid-other": Deviation(
        INVPCID_OTHER,
        "INVPCID of type 0 takes the translations of one address in the PCID that it names (SDM vol. 3 4.10.4.1).  With "
        "two-dimensional paging kvm_mmu_invpcid_gva() flushes the hardware only if that is the current PCID; of another one it "
        "looks at cached roots, which no longer depend on the guest's CR3.  e45e9e3998f0 mended type 1.  KVM does not intercept "
        "INVPCID there, so an emulation of one is rare, if it happens at all.",
        "an emulated INVPCID of type 0 takes nothing of another PCID",
        """machine tdp
v0 load 0x60
v0 mov cr3 = root(gfn=1, pcid=2)
v0 invpcid 0 pcid=0 0x60 emulated
v0 mov cr3 = root(gfn=6, noflush)
"""),
    "pre-fault-stale": Deviation(
        PRE_FAULT_STALE,
        "KVM_PRE_FAULT_MEMORY of a vCPU whose root has become obsolete (a memslot has gone) finds the fault stale and tries "
        "again, until the thread gets a signal: the request to free the root is served at the next KVM_RUN only.  "
        "kvm_mmu_reload() frees obsolete roots since 20a6cff3b283 (6.15; museum E9).",
        "no page is mapped in advance while that request waits",
        """machine tdp
host memslot delete 1 as=0
v0 pre_fault gfn=8
"""),
    "pae-root": Deviation(
        PAE_ROOT,
        "A PAE guest whose PDPTEs are loaded makes no progress once the page behind CR3 has no memslot any more (6.6 and later; "
        "older kernels shut it down).  Shown on real kernels.  For a private report to the kernel's maintainers: script and "
        "details are withheld (docs/findings.md).",
        Rule("pae_root_unseen"),
        None),
    "alias-rmap": Deviation(
        ALIAS_RMAP,
        "The dirty log and write protection find sptes by gfn.  Where two gfns are one host page, an spte that a guest moves "
        "from one to the other without INVLPG stays in the rmap of the first (mmu_set_spte), and what protects by the second "
        "misses it: writes are in no dirty log.  Shown on real kernels.  For a private report to the kernel's maintainers: the "
        "script is withheld (docs/findings.md).",
        Rule("set_spte_looks_at_gfn"),
        None),
    "mmio-cache-warning": Deviation(
        CACHE_WARNING,
        "A condition that the kernel holds for impossible, with a WARN_ON_ONCE, can be reached.  For a private report to the "
        "kernel's maintainers: details and script are withheld (docs/findings.md).",
        "this warning is not counted",
        None),
}


def mask(names):
    """Bits of the named deviations; KeyError for a name that is not there."""
    value = 0
    for name in names:
        value |= DEVIATIONS[name].bit
    return value
