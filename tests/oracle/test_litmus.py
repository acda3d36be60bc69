# SPDX-License-Identifier: GPL-2.0-or-later
"""What a CPU may answer after a short program: cases derived by hand from the manuals.

Each row gives the *exact* set of permitted outcomes, so it judges both ways: what is in the set is permitted,
everything else is forbidden.  The language is that of `litmus`; CPL is 3, CR0.WP = 1, EFER.NXE = 1, CR3 = R unless
told.  Sections are of SDM vol. 3, or of APM vol. 2 where that is said.
"""

import pytest
from litmus import World

PCID = "cr4 +pcide; cr3 R 1; "
GLOBAL = "cr4 +pge; R1.a = 1 pwuadg; "

CASES = (
    # section, what it is about, program, question, permitted, vendor (both if not given)

    # -- a changed leaf
    ("4.10.2.3", "no change: one answer", "", "read a", "1"),
    ("4.10.4.2", "changed leaf, no invalidation: old and new", "R1.a = 7 pwuad", "read a", "1 7"),
    ("4.10.4.2", "two changes: all three", "R1.a = 7 pwuad; R1.a = 8 pwuad", "read a", "1 7 8"),
    ("4.10.4.1", "INVLPG: only the new one", "R1.a = 7 pwuad; invlpg a", "read a", "7"),
    ("4.10.4.1", "INVLPG of another page is not enough", "R1.a = 7 pwuad; invlpg b", "read a", "1 7"),
    ("4.10.2.3", "INVLPG before the change is not enough: the CPU may cache again",
     "invlpg a; R1.a = 7 pwuad", "read a", "1 7"),
    ("4.10.4.1", "MOV CR3 of the same value", "R1.a = 7 pwuad; cr3 R", "read a", "7"),
    ("4.10.4.1", "away and back by MOV CR3", "R1.a = 7 pwuad; cr3 S; cr3 R", "read a", "7"),
    ("4.10.4.2", "unmapped: the old translation or the fault", "R1.a = 0", "read a", "1 pf4"),
    ("4.10.4.2", "unmapped and INVLPG: the fault", "R1.a = 0; invlpg a", "read a", "pf4"),
    ("4.10.2.3", "what was not present was not cached", "R1.a = 0; invlpg a; R1.a = 7 pwuad", "read a", "7"),
    ("4.10.4.3", "present after not present needs no invalidation",
     "R1.a = 0; invlpg a; R1.a = 7 pwuad", "write a", "7"),
    ("4.10.2.3", "A = 0 was not cached", "R1.a = 1 pwud; invlpg a; R1.a = 7 pwuad", "read a", "7"),
    ("4.10.2.3", "an access sets A, then it is cached",
     "R1.a = 1 pwud; invlpg a; read a; R1.a = 7 pwuad", "read a", "1 7"),
    ("4.10.2.3", "A = 0 in an upper entry: nothing is cached",
     "R2.a = R1 pwu; invlpg a; R1.a = 7 pwuad", "read a", "7"),
    ("4.10.2.3", "a reserved bit was not cached", "R1.a = 268435457 pwuad; invlpg a; R1.a = 7 pwuad", "read a", "7"),

    # -- rights
    ("4.10.4.2", "R/W removed: the write may still happen", "R1.a = 1 puad", "write a", "1 pf7"),
    ("4.10.4.2", "R/W removed and INVLPG", "R1.a = 1 puad; invlpg a", "write a", "pf7"),
    ("4.10.4.3", "R/W added: Intel may fault once",
     "R1.a = 1 puad; invlpg a; R1.a = 1 pwuad", "write a", "1 pf7", "intel"),
    ("APM 5.5.2", "R/W added: AMD looks into the tables",
     "R1.a = 1 puad; invlpg a; R1.a = 1 pwuad", "write a", "1", "amd"),
    ("4.10.4.1", "R/W added: after the #PF it works",
     "R1.a = 1 puad; invlpg a; R1.a = 1 pwuad; #pf a", "write a", "1", "intel"),
    ("4.10.4.2", "U/S removed", "R1.a = 1 pwad", "read a", "1 pf5"),
    ("4.10.4.2", "U/S removed and INVLPG", "R1.a = 1 pwad; invlpg a", "read a", "pf5"),
    ("4.10.4.2", "XD added", "R1.a = 1 pwuadn", "fetch a", "1 pf21"),
    ("4.10.4.2", "XD added and INVLPG", "R1.a = 1 pwuadn; invlpg a", "fetch a", "pf21"),
    ("4.10.4.3", "XD removed: Intel may fault",
     "R1.a = 1 pwuadn; invlpg a; R1.a = 1 pwuad", "fetch a", "1 pf21", "intel"),
    ("APM 5.5.2", "XD removed: AMD does not", "R1.a = 1 pwuadn; invlpg a; R1.a = 1 pwuad", "fetch a", "1", "amd"),
    ("4.10.4.2", "R/W removed in the PDE", "R2.a = R1 pua", "write a", "1 pf7"),
    ("4.10.4.1", "R/W removed in the PDE: INVLPG of another page does not drop the TLB entry",
     "R2.a = R1 pua; invlpg b", "write a", "1 pf7"),
    ("4.10.4.1", "R/W removed in the PDE: INVLPG of the page", "R2.a = R1 pua; invlpg a", "write a", "pf7"),

    # -- dirty
    ("4.10.2.3", "D = 0 cached: a write walks, to the new frame",
     "R1.a = 1 pwua; invlpg a; R1.a = 7 pwua", "write a", "7"),
    ("4.10.2.3", "D = 0 cached: a read may still use it", "R1.a = 1 pwua; invlpg a; R1.a = 7 pwua", "read a", "1 7"),
    ("4.10.2.3", "a write sets D, then writes may use it",
     "R1.a = 1 pwua; invlpg a; write a; R1.a = 7 pwua", "write a", "1 7"),
    ("4.10.4.2", "D cleared, no INVLPG: the old frame may be written",
     "R1.a = 1 pwua; R1.a = 7 pwua", "write a", "1 7"),

    # -- partial walks
    ("4.10.3.1", "PDE to another table: old and new", "R2.a = T pwua", "read a", "1 21"),
    ("4.10.3.2", "old table reached by the PDE cache, its entry changed later",
     "R2.a = T pwua; R1.a = 9 pwuad", "read a", "1 9 21"),
    ("4.10.4.1", "INVLPG of another page drops all partial walks, not the translation",
     "R2.a = T pwua; invlpg d; R1.a = 9 pwuad", "read a", "1 21"),
    ("4.10.4.1", "INVLPG of the page", "R2.a = T pwua; invlpg a; R1.a = 9 pwuad", "read a", "21"),
    ("4.10.4.1", "PDE cleared, INVLPG of a: b may still be cached", "R2.a = 0; invlpg a", "read b", "2 pf4"),
    ("4.10.4.1", "PDE cleared, INVLPG of a: no walk through the old table",
     "R2.a = 0; invlpg a; R1.b = 9 pwuad", "read b", "2 pf4"),
    ("4.10.3.1", "PDE cleared, no INVLPG: a walk through the old table",
     "R2.a = 0; R1.b = 9 pwuad", "read b", "2 9 pf4"),
    ("4.10.3.1", "PDPTE to another table", "R3.a = Q pwua", "read a", "1 31"),
    ("4.10.3.1", "PML4E cleared: the lower caches still serve", "R4.a = 0; R1.a = 9 pwuad", "read a", "1 9 pf4"),
    ("4.10.3.1", "PML4E cleared: a PDE changed later is met from the PDPTE cache",
     "R4.a = 0; R2.a = T pwua", "read a", "1 21 pf4"),
    ("4.10.3.1", "PML4E without A was not cached",
     "R4.a = R3 pwu; invlpg a; R4.a = 0; R1.a = 9 pwuad", "read a", "pf4"),
    ("4.10.3.1", "the partial walk keeps the old rights (W)",
     "R1.a = 0; R2.a = R1 pua; R1.a = 9 pwuad", "write a", "1 9 pf7"),
    ("4.10.3.1", "a freed table, reused as data that looks like a table",
     "R2.a = 0; invlpg b; R1.a = 9 pwuad", "read a", "1 pf4"),
    ("4.10.4.1", "#PF drops what the address would use",
     "R2.a = T pwua; #pf a; R1.a = 9 pwuad", "read a", "21", "intel"),
    ("4.10.4.1", "#PF keeps partial walks of other addresses", "R2.c = 0; #pf a; R1c.c = 9 pwuad", "read c", "3 9 pf4"),
    ("APM 5.5.2", "AMD promises nothing for #PF", "R1.a = 7 pwuad; #pf a", "read a", "1 7", "amd"),
    ("4.10.4.1", "#PF drops the stale translation", "R1.a = 7 pwuad; #pf a", "read a", "7", "intel"),

    # -- large pages
    ("4.10.2.3", "2M page moved: old and new", "R2.h = 1024 pwuadl", "read i", "513 1025"),
    ("4.10.2.3", "2M page moved: one INVLPG is enough for all of it", "R2.h = 1024 pwuadl; invlpg h", "read i", "1025"),
    ("4.10.2.3", "2M page split: both may be used",
     "T.h = 21 pwuad; T.i = 22 pwuad; R2.h = T pwua", "read i", "513 22"),
    ("4.10.2.3", "2M page split, INVLPG of h: h is new",
     "T.h = 21 pwuad; T.i = 22 pwuad; R2.h = T pwua; invlpg h", "read h", "21"),
    ("4.10.2.3", "2M page split, INVLPG of h: pieces for i may remain",
     "T.h = 21 pwuad; T.i = 22 pwuad; R2.h = T pwua; invlpg h", "read i", "513 22"),
    ("4.10.2.3", "2M page split, INVLPG of both",
     "T.h = 21 pwuad; T.i = 22 pwuad; R2.h = T pwua; invlpg h; invlpg i", "read i", "22"),
    ("4.10.2.3", "small pages replaced by a 2M page", "R2.a = 1536 pwuadl", "read a", "1 1540"),
    ("4.10.2.3", "small pages replaced by a 2M page, INVLPG of a: b may be old",
     "R2.a = 1536 pwuadl; invlpg a", "read b", "2 1541"),
    ("4.10.4.1", "2M page cleared, MOV CR3", "R2.h = 0; cr3 R", "read i", "pf4"),
    ("4.10.2.3", "2M page cleared, INVLPG of h: a piece for i may remain", "R2.h = 0; invlpg h", "read i", "513 pf4"),

    # -- global pages
    ("4.10.2.4", "global survives MOV CR3", GLOBAL + "R1.a = 7 pwuadg; cr3 R", "read a", "1 7"),
    ("4.10.2.4", "global serves another address space", GLOBAL + "cr3 S", "read a", "1 11"),
    ("4.10.2.4", "without CR4.PGE G means nothing", "R1.a = 1 pwuadg; cr3 S", "read a", "11"),
    ("4.10.4.1", "INVLPG drops a global translation", GLOBAL + "cr3 S; invlpg a", "read a", "11"),
    ("4.10.4.1", "clearing PGE drops it", GLOBAL + "cr3 S; cr4 -pge", "read a", "11"),
    ("4.10.4.1", "setting PGE drops everything, too", "R1.a = 7 pwuad; cr4 +pge", "read a", "7"),
    ("4.10.3.1", "partial walks are never global", GLOBAL + "cr3 S; R1.a = 9 pwuadg", "read a", "1 11"),
    ("4.10.4.1", "#PF drops own global translation", GLOBAL + "R1.a = 7 pwuadg; #pf a", "read a", "7", "intel"),

    # -- PCIDs
    ("4.10.1", "another PCID does not use them", PCID + "cr3 S 2 keep", "read a", "11"),
    ("4.10.4.1", "MOV CR3 with NOFLUSH keeps", PCID + "R1.a = 7 pwuad; cr3 S 2; cr3 R 1 keep", "read a", "1 7"),
    ("4.10.4.1", "MOV CR3 without NOFLUSH drops its PCID", PCID + "R1.a = 7 pwuad; cr3 S 2; cr3 R 1", "read a", "7"),
    ("4.10.4.1", "MOV CR3 drops only the PCID it names",
     PCID + "R1.a = 7 pwuad; cr3 S 2; cr3 S 3; cr3 R 1 keep", "read a", "1 7"),
    ("4.10.1", "one PCID for two spaces without a flush mixes them", PCID + "cr3 S 1 keep", "read a", "1 11"),
    ("4.10.4.1", "INVLPG acts on the current PCID only",
     PCID + "R1.a = 7 pwuad; cr3 S 2; invlpg a; cr3 R 1 keep", "read a", "1 7"),
    ("4.10.4.1", "INVLPG drops global translations of any PCID",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; cr3 S 2 keep; invlpg a", "read a", "11"),
    ("4.10.4.1", "INVPCID 0 on another PCID",
     PCID + "R1.a = 7 pwuad; cr3 S 2; invpcid 0 1 a; cr3 R 1 keep", "read a", "7"),
    ("4.10.4.1", "INVPCID 0 leaves other pages", PCID + "R1.a = 7 pwuad; invpcid 0 1 b", "read a", "1 7"),
    ("4.10.4.1", "INVPCID 0 leaves partial walks of other addresses",
     PCID + "R2.c = 0; invpcid 0 1 a; R1c.c = 9 pwuad", "read c", "3 9 pf4"),
    ("4.10.4.1", "INVPCID 0 drops partial walks of the address",
     PCID + "R2.a = 0; invpcid 0 1 a; R1.a = 9 pwuad", "read a", "pf4"),
    ("4.10.4.1", "INVPCID 0 leaves global translations",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; R1.a = 7 pwuadg; invpcid 0 1 a", "read a", "1 7"),
    ("4.10.4.1", "INVPCID 1: one context", PCID + "R1.a = 7 pwuad; invpcid 1 1", "read a", "7"),
    ("4.10.4.1", "INVPCID 1 of another context", PCID + "R1.a = 7 pwuad; invpcid 1 2", "read a", "1 7"),
    ("4.10.4.1", "INVPCID 1 leaves global translations",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; R1.a = 7 pwuadg; invpcid 1 1", "read a", "1 7"),
    ("4.10.4.1", "INVPCID 2: everything",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; R1.a = 7 pwuadg; invpcid 2 0", "read a", "7"),
    ("4.10.4.1", "INVPCID 3: all contexts", PCID + "R1.a = 7 pwuad; cr3 S 2; invpcid 3 0; cr3 R 1 keep", "read a", "7"),
    ("4.10.4.1", "INVPCID 3 leaves global translations",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; R1.a = 7 pwuadg; invpcid 3 0", "read a", "1 7"),
    ("4.10.4.1", "setting PCIDE drops nothing", "R1.a = 7 pwuad; cr4 +pcide", "read a", "1 7"),
    ("4.10.4.1", "clearing PCIDE drops all",
     PCID + "R1.a = 7 pwuad; cr3 R 0; cr4 -pcide; cr4 +pcide; cr3 R 1 keep", "read a", "7"),

    ("4.10.4.1", "INVPCID 0 leaves the page of other PCIDs",
     PCID + "R1.a = 7 pwuad; cr3 S 2 keep; invpcid 0 2 a; cr3 R 1 keep", "read a", "1 7"),
    ("4.10.4.1", "INVPCID 2 drops global translations of other PCIDs",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; cr3 S 2 keep; invpcid 2 0", "read a", "11"),
    ("4.10.4.1", "#PF leaves other PCIDs", PCID + "R1.a = 7 pwuad; cr3 S 2; #pf a; cr3 R 1 keep", "read a", "1 7"),
    ("4.10.4.1", "#PF leaves global translations of other PCIDs",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; cr3 S 2 keep; #pf a", "read a", "1 11"),
    ("4.10.4.1", "CR4.PGE concerns every PCID",
     PCID + "R1.a = 7 pwuad; cr3 S 2; cr4 +pge; cr3 R 1 keep", "read a", "7"),
    ("4.10.4.1", "clearing PGE drops global translations of other PCIDs",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; cr3 S 2 keep; cr4 -pge", "read a", "11"),
    ("4.10.4.1", "clearing PCIDE drops global translations",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; cr3 R 0 keep; R1.a = 7 pwuadg; cr4 -pcide", "read a", "7"),
    ("4.10.4.1", "setting SMEP leaves other PCIDs",
     PCID + "R1.a = 7 pwuad; cr3 S 2; cr4 +smep; cr3 R 1 keep", "read a", "1 7"),
    ("4.10.4.1", "setting SMEP leaves global translations of other PCIDs",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; cr3 S 2 keep; cr4 +smep", "read a", "1 11"),
    ("4.10.4.1", "setting SMEP drops own global translations",
     GLOBAL + "R1.a = 7 pwuadg; cr4 +smep", "read a", "7", "intel"),
    ("APM 5.5.2", "the APM does not name SMEP", "R1.a = 7 pwuad; cr4 +smep", "read a", "1 7", "amd"),
    ("APM 5.5.2", "CR4.PSE concerns every PCID, and global translations",
     PCID + "cr4 +pge; R1.a = 1 pwuadg; R1.b = 7 pwuad; cr3 S 2; cr4 +pse; cr3 R 1 keep", "read b", "7", "amd"),
    ("APM 5.5.2", "CR4.PSE drops global translations", GLOBAL + "cr3 S; cr4 +pse", "read a", "11", "amd"),
    ("T 10-1", "INIT concerns every PCID", PCID + "R1.a = 7 pwuad; cr3 S 2; init; cr3 R 1 keep", "read a", "7"),
    ("APM 5.5.2", "SMI concerns every PCID", PCID + "R1.a = 7 pwuad; cr3 S 2; smi; cr3 R 1 keep", "read a", "7", "amd"),

    # -- control bits
    ("4.10.4.1", "CR0.PG 1 -> 0 drops everything", GLOBAL + "R1.a = 7 pwuadg; cr0 -pg; cr0 +pg", "read a", "7"),
    ("4.10.4.1", "CR4.SMEP 0 -> 1 drops the current PCID", "R1.a = 7 pwuad; cr4 +smep", "read a", "7", "intel"),
    ("4.10.4.1", "CR4.SMEP 1 -> 0 drops nothing", "cr4 +smep; R1.a = 7 pwuad; cr4 -smep", "read a", "1 7"),
    ("4.10.4.1", "CR4.SMAP drops nothing", "R1.a = 7 pwuad; cr4 +smap", "read a", "1 7"),
    ("4.10.4.1", "CR4.PSE: nothing on Intel", "R1.a = 7 pwuad; cr4 +pse", "read a", "1 7", "intel"),
    ("APM 5.5.2", "CR4.PSE: everything on AMD", "R1.a = 7 pwuad; cr4 +pse", "read a", "7", "amd"),
    ("4.10.4.1", "CR0.WP drops nothing", "R1.a = 7 pwuad; cr0 -wp", "read a", "1 7"),
    ("4.6.1", "CR0.WP judges at access time", "R1.a = 1 pad; invlpg a; cr0 -wp; cpl 0", "write a", "1"),
    ("4.6.1", "CR0.WP set again: the same row now forbids",
     "R1.a = 1 pad; invlpg a; cr0 -wp; cr0 +wp; cpl 0", "write a", "pf3"),
    ("4.6.1", "SMAP judges at access time", "cr4 +smap; cpl 0", "read a", "pf1"),
    ("4.6.1", "SMAP with AC", "cr4 +smap; cpl 0; ac 1", "read a", "1"),
    ("4.6.1", "SMEP judges at access time", "cr4 +smep; cpl 0", "fetch a", "pf17"),
    ("4.6.2", "PKRU judges at access time, without a flush", "cr4 +pke; pkru 1", "read a", "pf37"),
    ("4.6.2", "PKRU.WD and a read", "cr4 +pke; pkru 2", "read a", "1"),
    ("4.10.4.1", "EFER.NXE drops nothing", "R1.a = 7 pwuad; efer -nx", "read a", "1 7"),
    ("T 10-1", "INIT drops everything", GLOBAL + "R1.a = 7 pwuadg; init", "read a", "7"),
    ("APM 5.5.2", "SMI drops everything on AMD", GLOBAL + "R1.a = 7 pwuadg; smi", "read a", "7", "amd"),
    ("4.10.4.1", "SMI: nothing is promised on Intel", "R1.a = 7 pwuad; smi", "read a", "1 7", "intel"),

    # -- accesses, address spaces, tags
    ("4.10.4.1", "MOV CR3 to another space: only its translations", "cr3 S", "read a", "11"),
    ("4.10.4.1", "the other space was changed while away", "cr3 S; R1.a = 7 pwuad; cr3 R", "read a", "7"),
    ("4.8", "an access that faults sets nothing that could be cached",
     "R1.a = 1 pwd; invlpg a; read a; R1.a = 7 pwuad", "read a", "7"),
    ("28.3", "rows of another tag are not used", "R1.a = 7 pwuad; tag 1", "read a", "7"),
    ("28.3", "rows of another tag are not removed", "R1.a = 7 pwuad; tag 1; invlpg a; cr3 R; tag 0", "read a", "1 7"),
)


def vendors(case):
    return case[5:] or ("intel", "amd")


PARAMETERS = [pytest.param(*case[:5], vendor, id=f"{case[1]} ({vendor})".replace(" ", "_"))
              for case in CASES for vendor in vendors(case)]


@pytest.mark.parametrize("section, what, program, question, expected, vendor", PARAMETERS)
def test_litmus(section, what, program, question, expected, vendor):
    world = World(vendor)
    world.run(program)
    assert world.ask(question) == set(expected.split()), f"{vendor}, {section}"


def test_number_of_cases():
    assert len(CASES) >= 60
