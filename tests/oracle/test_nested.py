# SPDX-License-Identifier: GPL-2.0-or-later
"""What a CPU with nested paging may answer after a short program: cases derived by hand from the manuals.

Each row gives the exact set of permitted outcomes, so it judges both ways.  The language is that of `nested_litmus`; at the
start the
guest runs on N, ASID or VPID 1, EPT with A and D bits.  SDM vol. 3 (29 is 28 before 2022), APM vol. 2.
"""

import pytest
from nested_litmus import NestedWorld

AMD = (
    # -- the nested half
    ("APM 15.25", "nothing changed", "", "read a", "30"),
    ("APM 15.25", "changed nested leaf, no flush: old and new", "N1.x = 40 pwuad", "read a", "30 40"),
    ("APM 15.16.1", "VMRUN with TLB_CONTROL 3", "N1.x = 40 pwuad; exit; vmrun N 1 asid", "read a", "40"),
    ("APM 15.16.1", "VMRUN with TLB_CONTROL 1", "N1.x = 40 pwuad; exit; vmrun N 1 all", "read a", "40"),
    ("APM 15.16.1", "VMRUN with TLB_CONTROL 0 removes nothing", "N1.x = 40 pwuad; exit; vmrun N 1 none", "read a", "30 40"),
    ("APM 15.16", "another ASID has translations of its own", "N1.x = 40 pwuad; exit; vmrun N 2 none", "read a", "40"),
    ("APM 15.16", "and the first one is still there when it comes back",
     "N1.x = 40 pwuad; exit; vmrun N 2 none; exit; vmrun N 1 none", "read a", "30 40"),
    ("APM 15.16.1", "TLB_CONTROL 3 of another ASID is not enough",
     "N1.x = 40 pwuad; exit; vmrun N 2 asid; exit; vmrun N 1 none", "read a", "30 40"),
    ("APM 15.16.1", "TLB_CONTROL 1 of another ASID is",
     "N1.x = 40 pwuad; exit; vmrun N 2 all; exit; vmrun N 1 none", "read a", "40"),
    ("APM 15.25", "another nCR3 under the same ASID: a flush is due", "exit; vmrun M 1 none", "read a", "30 50"),
    ("APM 15.16.1", "another nCR3 with the flush", "exit; vmrun M 1 asid", "read a", "50"),
    ("APM 15.25", "L1 changes tables while the guest does not run: the old one stays, the new is met at the VMRUN",
     "exit; N1.x = 40 pwuad; vmrun N 1 none", "read a", "30 40"),
    ("APM 15.25", "what was there only while the guest did not run was never cached",
     "exit; N1.x = 40 pwuad; N1.x = 41 pwuad; vmrun N 1 none", "read a", "30 41"),
    ("APM 15.25", "partial walk: the old table of N is still used", "N2.x = Q pwua; N1.x = 40 pwuad", "read a", "30 40 60"),
    ("APM 15.25", "gone: old or #NPF, which is no present user read", "N1.x = 0", "read a", "30 npf:x:4"),
    ("APM 15.25.6", "gone, flushed: #NPF", "N1.x = 0; exit; vmrun N 1 asid", "read a", "npf:x:4"),
    ("APM 15.25.5", "nested accesses are user accesses", "N1.x = 30 pwad; exit; vmrun N 1 asid", "read a", "npf:x:5"),
    ("APM 15.25.5", "also at CPL 0 there is no supervisor", "N1.x = 30 puad; exit; vmrun N 1 asid", "write a", "npf:x:7"),
    ("APM 15.25.5", "no-execute", "N1.x = 30 pwuadn; exit; vmrun N 1 asid", "fetch a", "npf:x:21"),
    ("APM 15.25.3", "NX is reserved when L1 has EFER.NXE = 0 at its VMRUN",
     "N1.x = 30 pwuadn; exit; efer -nx; vmrun N 1 asid", "read a", "npf:x:13"),
    ("APM 15.25.5", "a guest's table on a read-only nested page: the walk writes", "N1t.g1 = 23 pua; exit; vmrun N 1 asid",
     "read a", "npt:g1:7"),
    ("APM 15.25.5", "a no-execute page may hold tables", "N1t.g1 = 23 pwuadn; exit; vmrun N 1 asid", "fetch a", "30"),
    ("APM 15.25.6", "a guest's table is not there", "N1t.g2 = 0; exit; vmrun N 1 asid", "read a", "npt:g2:6"),
    ("APM 15.25", "D = 0 in the nested leaf: a write walks to the new page",
     "N1.x = 30 pwua; exit; vmrun N 1 asid; N1.x = 40 pwua",
     "write a", "40"),
    ("APM 15.25", "a read may use it", "N1.x = 30 pwua; exit; vmrun N 1 asid; N1.x = 40 pwua", "read a", "30 40"),
    ("APM 15.25", "A = 0 was not cached", "N1.x = 30 pwud; exit; vmrun N 1 asid; N1.x = 40 pwuad", "read a", "40"),
    ("APM 5.5.2", "rights added: AMD looks into the tables", "N1.x = 30 puad; exit; vmrun N 1 asid; N1.x = 30 pwuad",
     "write a", "30"),
    ("APM 15.25", "a guest without paging: the same tables", "exit; paging; N1.x = 40 pwuad; vmrun N 1 none", "read x", "30 40"),

    # -- the guest's half
    ("APM 15.16", "guest's leaf changed: old and new", "G1.a = y pwuad", "read a", "30 31"),
    ("APM 5.5.2", "the guest's INVLPG", "G1.a = y pwuad; invlpg a", "read a", "31"),
    ("APM 5.5.2", "the guest's MOV CR3", "G1.a = y pwuad; cr3", "read a", "31"),
    ("APM 15.25", "the guest's INVLPG leaves guest-physical translations", "N1.x = 40 pwuad; invlpg a", "read a", "30 40"),
    ("APM 15.25", "the guest's MOV CR3 leaves them, too", "N1.x = 40 pwuad; cr3", "read a", "30 40"),
    ("APM 15.16.2", "INVLPGA of the ASID", "G1.a = y pwuad; exit; invlpga a 1; vmrun N 1 none", "read a", "31"),
    ("APM 15.16.2", "INVLPGA of another ASID", "G1.a = y pwuad; exit; invlpga a 2; vmrun N 1 none", "read a", "30 31"),
    ("APM 15.16.2", "INVLPGA leaves guest-physical translations", "N1.x = 40 pwuad; exit; invlpga a 1; vmrun N 1 none", "read a",
     "30 40"),
    ("APM 15.25", "the table behind a guest's table moves: both are walked", "N1t.g1 = 24 pwuad", "read a", "30 32"),
    ("APM 15.25", "flushed: only the new one", "N1t.g1 = 24 pwuad; exit; vmrun N 1 asid", "read a", "32"),
    ("APM 15.16.1", "TLB_CONTROL 0: the guest's old translation stays", "G1.a = y pwuad; exit; vmrun N 1 none", "read a",
     "30 31"),
    ("APM 15.16.1", "TLB_CONTROL 3 takes it", "G1.a = y pwuad; exit; vmrun N 1 asid", "read a", "31"),
    ("APM 15.16", "guest's partial walk", "G2.a = h pwua", "read a", "30 31"),
    ("APM 5.5.1", "guest's global translation stays over MOV CR3", "cr4 +pge; G1.a = x pwuadg; G1.a = y pwuad; cr3",
     "read a", "30 31"),
    ("APM 5.4", "the guest refuses before the nested tables are asked", "G1.a = x puad; invlpg a; N1.x = 0; exit; vmrun N 1 asid",
     "write a", "pf7"),
    ("APM 15.25.6", "not present in the guest: its own #PF", "G1.a = 0; invlpg a", "read a", "pf4"),
)

INTEL = (
    ("29.4.2", "nothing changed", "", "read a", "30"),
    ("29.4.3.2", "changed EPT leaf, no INVEPT: old and new", "N1.x = 40 rwxad", "read a", "30 40"),
    ("29.4.3.1", "INVEPT of the EP4TA", "N1.x = 40 rwxad; exit; invept N; entry N 1 ad", "read a", "40"),
    ("29.4.3.1", "INVEPT of another one", "N1.x = 40 rwxad; exit; invept M; entry N 1 ad", "read a", "30 40"),
    ("29.4.3.1", "INVEPT of all", "N1.x = 40 rwxad; exit; invept all; entry N 1 ad", "read a", "40"),
    ("29.4.3.1", "VM entries and exits without VPID leave guest-physical mappings",
     "N1.x = 40 rwxad; exit; entry N 0 ad; exit; entry N 0 ad", "read a", "30 40"),
    ("29.4.2", "another EPTP has mappings of its own", "exit; entry M 1 ad", "read a", "50"),
    ("29.4.2", "and the first ones are there again", "N1.x = 40 rwxad; exit; entry M 1 ad; exit; entry N 1 ad", "read a",
     "30 40"),
    ("29.4.2", "EP4TA does not tell A/D apart", "N1.x = 40 rwxad; exit; entry N 1", "read a", "30 40"),
    ("29.4.3.1", "INVVPID leaves guest-physical mappings", "N1.x = 40 rwxad; exit; invvpid 1; entry N 1 ad", "read a", "30 40"),
    ("29.4.3.1", "INVVPID takes the guest's half", "G1.a = y pwuad; exit; invvpid 1; entry N 1 ad", "read a", "31"),
    ("29.4.3.1", "INVVPID of another VPID", "G1.a = y pwuad; exit; invvpid 2; entry N 1 ad", "read a", "30 31"),
    ("29.4.3.1", "INVVPID of one address", "G1.a = y pwuad; exit; invvpid a 1; entry N 1 ad", "read a", "31"),
    ("29.4.3.1", "INVVPID of another address", "G1.a = y pwuad; exit; invvpid b 1; entry N 1 ad", "read a", "30 31"),
    ("29.4.3.1", "INVVPID of all", "G1.a = y pwuad; exit; invvpid all; entry N 1 ad", "read a", "31"),
    ("29.4.3.1", "VPID 0: transitions take linear translations", "exit; entry N 0 ad; G1.a = y pwuad; exit; entry N 0 ad",
     "read a", "31"),
    ("29.4.3.1", "VPID 1 keeps them", "G1.a = y pwuad; exit; entry N 1 ad", "read a", "30 31"),
    ("29.4.3.1", "INVEPT takes combined mappings of every VPID", "G1.a = y pwuad; exit; invept N; entry N 1 ad", "read a", "31"),
    ("29.4.3.1", "INVLPG: current VPID, all EP4TAs", "G1.a = y pwuad; exit; entry M 1 ad; invlpg a; exit; entry N 1 ad", "read a",
     "31"),
    ("29.4.3.1", "INVLPG of another VPID", "G1.a = y pwuad; exit; entry N 2 ad; invlpg a; exit; entry N 1 ad", "read a", "30 31"),
    ("29.4.3.1", "INVLPG leaves guest-physical mappings", "N1.x = 40 rwxad; invlpg a", "read a", "30 40"),
    ("29.4.3.1", "an EPT violation removes what the access used",
     "N1.x = 30 rxad; exit; invept N; entry N 1 ad; N1.x = 30 rwxad; violation x", "write a", "30"),
    ("29.4.3.3", "rights added without INVEPT: one violation is possible",
     "N1.x = 30 rxad; exit; invept N; entry N 1 ad; N1.x = 30 rwxad", "write a", "30 ev:x:42"),
    ("29.3.3.2", "violation: access and rights", "N1.x = 30 rad; exit; invept N; entry N 1 ad", "write a", "ev:x:10"),
    ("29.3.3.2", "fetch", "N1.x = 30 rwad; exit; invept N; entry N 1 ad", "fetch a", "ev:x:28"),
    ("29.3.3.2", "execute-only: fetches pass", "N1.x = 30 xad; exit; invept N; entry N 1 ad", "fetch a", "30"),
    ("29.3.3.2", "execute-only: reads do not", "N1.x = 30 xad; exit; invept N; entry N 1 ad", "read a", "ev:x:33"),
    ("29.3.3.1", "execute-only without the capability", "N1.x = 30 xad; exit; invept N; execute-only; entry N 1 ad",
     "fetch a", "mis:x"),
    ("29.3.3.1", "write without read", "N1.x = 30 wad; exit; invept N; entry N 1 ad", "read a", "mis:x"),
    ("29.3.3.1", "memory type 2", "N1.x = 30 rwxadt2; exit; invept N; entry N 1 ad", "read a", "mis:x"),
    ("29.3.3.1", "memory type 0 is good", "N1.x = 30 rwxadt0; exit; invept N; entry N 1 ad", "read a", "30"),
    ("29.3.3.1", "a reserved bit of an upper entry", "N3.x = N2 rwxal; exit; invept N; entry N 1 ad", "read a", "mis:g4"),
    ("29.3.3.1", "a bit above MAXPHYADDR", "N1.x = 268435486 rwxad; exit; invept N; entry N 1 ad", "read a", "mis:x"),
    ("29.3.3.1", "a misconfigured entry is never cached, the old one is", "N1.x = 30 wad", "read a", "30 mis:x"),
    ("29.3.3.2", "a guest's table on a read-only page: written, with A and D bits of EPT",
     "N1t.g1 = 23 rad; exit; invept N; entry N 1 ad", "read a", "et:g1:11"),
    ("29.3.3.2", "read, without them", "N1t.g1 = 23 r; exit; invept N; entry N 1", "read a", "30"),
    ("29.3.3.2", "setting the guest's A is a write", "N1t.g1 = 23 r; G1.a = x pwud; exit; invept N; entry N 1", "read a",
     "et:g1:10 et:g1:11"),
    ("29.3.3.2", "setting the guest's D is a write", "N1t.g1 = 23 r; G1.a = x pwua; exit; invvpid 1; invept N; entry N 1",
     "write a",
     "et:g1:10 et:g1:11"),
    ("29.3.5", "A = 0 is not cached, with A and D bits", "N1.x = 30 rwxd; exit; invept N; entry N 1 ad; N1.x = 40 rwxad",
     "read a", "40"),
    ("29.3.5", "without them it is", "N1.x = 30 rwx; exit; invept N; entry N 1; N1.x = 40 rwx", "read a", "30 40"),
    ("29.3.5", "D = 0: a write walks", "N1.x = 30 rwxa; exit; invept N; entry N 1 ad; N1.x = 40 rwxa", "write a", "40"),
    ("29.3.5", "without A and D bits nothing is waited for", "N1.x = 30 rwx; exit; invept N; entry N 1; N1.x = 40 rwx",
     "write a", "30 40"),
)

CASES = [pytest.param(*case, vendor, id=f"{vendor}_{case[1]}".replace(" ", "_"))
         for vendor, cases in (("amd", AMD), ("intel", INTEL)) for case in cases]


@pytest.mark.parametrize("section, what, program, question, expected, vendor", CASES)
def test_litmus(section, what, program, question, expected, vendor):
    world = NestedWorld(vendor)
    world.run(program)
    assert world.ask(question) == set(expected.split()), section
