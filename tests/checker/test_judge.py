# SPDX-License-Identifier: GPL-2.0-or-later
"""`check --judge`: permitted outcomes after short programs, derived by hand from SDM vol. 3 4.10 and APM vol. 2 5.5."""

import json

import pytest
from front import SCRIPTS, check

#: Sets of permitted outcomes of the `may` lines, in order.
DOCUMENTED = {
    # 4.10.4.1: MOV CR3 and INVPCID took the old translation; NOFLUSH takes nothing, but there is nothing left to keep
    "noflush": [{"gfn 8"}],
    # 4.10.4.1 INVLPG: translations of one page, partial walks of all
    "invlpg": [{"gfn 8", "gfn 9"}, {"gfn 8", "gfn 9"}, {"gfn 8"}, {"gfn 4", "gfn 8"}, {"gfn 4"}],
    # 4.10.4.3: a fault by a translation that the tables no longer show
    "upgrade": [{"#PF 0x3 (P W)"}, {"gfn 9", "#PF 0x3 (P W)"}],
}


def judged(tmp_path, text):
    script = tmp_path / "script.txt"
    script.write_text(text)
    return json.loads(check(tmp_path, "--judge", script, "--json").stdout)["steps"]


def answers(steps):
    return [{outcome["what"] for outcome in step["permitted"]} for step in steps if step["question"]]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_examples(tmp_path, name):
    done = check(tmp_path, "--judge", SCRIPTS / f"{name}.txt", "--json")
    assert answers(json.loads(done.stdout)["steps"]) == DOCUMENTED[name]


@pytest.mark.parametrize("program, expected", [
    # INVPCID type 0 leaves other pages; type 1 takes all of the PCID (SDM 4.10.4.1)
    ("machine intel\nv0 store 0x20 = 0\nv0 invpcid 0 pcid=0 0x80\nv0 may load 0x80\nv0 may load 0x180",
     [{"#PF 0x0 (not present)"}, {"#PF 0x0 (not present)", "gfn 9"}]),
    # another PCID is not touched by MOV CR3 with flush of this one: NOFLUSH back finds the old entry
    ("machine intel\nv0 mov cr3 = root(gfn=1, pcid=1)\nv0 store 0x20 = 0\nv0 mov cr3 = root(gfn=1, pcid=1)\n"
     "v0 may load 0x80\nv0 mov cr3 = root(gfn=1, noflush)\nv0 may load 0x80",
     [{"#PF 0x0 (not present)"}, {"#PF 0x0 (not present)", "gfn 9"}]),
    # CR4.PGE takes everything of every PCID
    ("machine pcid\nv0 mov cr3 = root(gfn=1, pcid=1)\nv0 store 0x20 = 0\nv0 mov cr4 = PAE|PCIDE\n"
     "v0 mov cr3 = root(gfn=1, noflush)\nv0 may load 0x80", [{"#PF 0x0 (not present)"}]),
    # rights are judged with the registers of the moment: CR0.WP
    ("machine 4-level\nv0 may store 0x180\nv0 mov cr0 = PE|ET|PG\nv0 may store 0x180", [{"#PF 0x3 (P W)"}, {"gfn 9"}]),
    # another vCPU's TLB is its own
    ("machine 4-level\nvcpus 2\nv0 store 0x20 = 0\nv0 invlpg 0x80\nv0 may load 0x80\nv1 may load 0x80",
     [{"#PF 0x0 (not present)"}, {"#PF 0x0 (not present)", "gfn 9"}]),
    # an access by a held translation goes to the old page
    ("machine 4-level\nv0 store 0x20 = pte(gfn=8, P|W|U|A|D)\nv0 may store 0x80 user", [{"gfn 8", "gfn 9"}]),
    # the #PF of an Intel CPU takes the translations of its page (4.10.4.1); AMD's does not
    ("machine intel\nv0 store 0x20 = pte(gfn=9, P|U|A|D)\nv0 store 0x80 = 0\nv0 may store 0x80", [{"#PF 0x3 (P W)"}]),
    ("machine 4-level\nv0 store 0x20 = pte(gfn=9, P|U|A|D)\nv0 store 0x80 = 0\nv0 may store 0x80", [{"#PF 0x3 (P W)", "gfn 9"}]),
])
def test_permitted_outcomes(tmp_path, program, expected):
    assert answers(judged(tmp_path, program)) == expected


def test_a_removal_names_rule_and_section(tmp_path):
    steps = judged(tmp_path, "v0 invlpg 0x80\nv0 may load 0x80")
    removal = steps[0]["removals"][0]
    assert removal["event"] == "INVLPG" and "4.10.4.1" in removal["source"]
    assert "pcid 0 translation level 1 0x80 -> gfn 9 WUD-" in removal["rows"]
    assert all("translation level 1" not in row or " 0x80 " in row for row in removal["rows"])


def test_every_outcome_has_its_reason(tmp_path):
    steps = judged(tmp_path, "v0 store 0x20 = 0\nv0 may load 0x80")
    stale = next(o for o in steps[1]["permitted"] if o["what"] == "gfn 9")
    assert stale["because"] == ["held since the start: pcid 0 translation level 1 0x80 -> gfn 9 WUD-"]
    assert any("PTE at gfn 5+0x0 = 0" in reason for o in steps[1]["permitted"] for reason in o["because"])


def test_the_text_says_the_same(tmp_path):
    text = check(tmp_path, "--judge", SCRIPTS / "noflush.txt").stdout
    assert "permitted: gfn 8" in text and "no longer: gfn 9" in text and "4.10.4.1" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("text, message", [
    ("v0 may invlpg 0x80", "line 1: one can ask for load, store and fetch"),
    ("v0 lod 0x80", "line 1: no operation reads like"),
    ("machine x\nv0 load 0x80", "machine x: there is"),
    ("# nothing", "no operations"),
])
def test_mistakes_are_one_line(tmp_path, text, message):
    script = tmp_path / "script.txt"
    script.write_text(text)
    done = check(tmp_path, "--judge", script, code=2)
    assert message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
