# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts: what is written can be read; known deviations show themselves, and are silent when set aside."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from shadowmmu.checker import alphabet, geometry, known, ops, search

SRC = pathlib.Path(__file__).parent.parent.parent / "src"


@pytest.mark.parametrize("machine", geometry.MACHINES)
@pytest.mark.parametrize("small", [False, True])
def test_every_operation_survives_printing_and_reading(machine, small):
    rows = [r for rows in alphabet.alphabet(geometry.MACHINES[machine], 2, small).values() for r in rows]
    script = ops.parse(ops.script(machine, "linux-6.12", 2, rows))
    assert script.machine == machine and script.vcpus == 2
    assert script.rows == rows


def test_lines_read_as_people_write_them():
    assert ops.show(ops.parse_line("v0 store 0x40 = pte(gfn=7, P|W|U|A|D)")) == "v0 store 0x40 = pte(gfn=7, P|W|U|A|D)"
    assert ops.parse_line("v1 load 64 user") == ops.row(ops.LOAD, 1, 64, 0, 0, ops.USER)
    assert ops.parse_line("v0 mov cr3 = root(gfn=1, pcid=2, noflush)")[2] == -(1 << 63) + 0x1002
    assert ops.parse("# nothing\n\nmachine pae  # PAE\nv0 init\n").machine == "pae"


@pytest.mark.parametrize("text, message", [
    ("v0 load 0x40\nv0 lod 0x40", "line 2: no operation reads like 'lod 0x40'"),
    ("cpu0 load 0x40", "line 1: 'cpu0' is neither a vCPU"),
    ("v1 load 0x40", "there are only 1 vCPUs"),
    ("vcpus two\nv0 init", "not a number"),
    ("v0 store 0x40 = pte(gfn=7, P|Q)", "line 1:"),
])
def test_mistakes_are_told_with_their_line(text, message):
    with pytest.raises(ops.ScriptError, match=message):
        ops.parse(text)


PROGRAM = """
import json
from shadowmmu.checker import geometry, known, ops, search
from shadowmmu.checker.shrink import shrink
out = {}
for name, deviation in known.DEVIATIONS.items():
    if not deviation.script:
        continue
    script = ops.parse(deviation.script)
    runs = []
    for aside in (0, deviation.bit):
        arena = geometry.Arena(geometry.MACHINES[script.machine], script.rules, script.vcpus, aside=aside)
        runs.append(search.replay(arena, script.rows)[0])
        if not aside:
            runs.append(len(shrink(arena, script.rows, runs[0])) if runs[0] else 0)
    out[name] = [len(script.rows), *runs]
machine = geometry.MACHINES["4-level"]
finder = search.Search(machine, "linux-6.12", 1, seed=5, aside=known.mask(known.DEVIATIONS))
again = search.Search(machine, "linux-6.12", 1, seed=5, aside=known.mask(known.DEVIATIONS))
found = finder.random(operations=1200), again.random(operations=1200)
out["random"] = [found[0] is None, finder.progress.states == again.progress.states, finder.progress.states]
wide = search.Search(machine, "linux-6.12", 1, aside=known.mask(known.DEVIATIONS))
out["exhaustive"] = [wide.exhaustive(1) is None, wide.progress.exhausted, wide.progress.complete_depth]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def interpreted():
    environment = dict(os.environ, SHADOWMMU_JIT="0", PYTHONPATH=str(SRC))
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [name for name, deviation in known.DEVIATIONS.items() if deviation.script])
def test_known_deviation_is_minimal_and_can_be_set_aside(interpreted, name):
    length, failure, shrunk, aside = interpreted[name]
    assert failure != 0
    assert shrunk == length
    assert aside == 0


def test_random_search_finds_nothing_else_and_repeats_itself(interpreted):
    nothing, same, states = interpreted["random"]
    assert nothing and same and states > 300


def test_exhaustive_search_states_its_bound(interpreted):
    assert interpreted["exhaustive"] == [True, True, 1]


@pytest.mark.parametrize("lines", [
    # found by campaigns as `not-mmio` and `fault`: a refused MOV CR4 that sets PAE with PCIDE loads the PDPTEs, and a
    # KVM_SET_SREGS with reserved bits in the table keeps them
    """v0 init
    v0 mov cr0 = PE|ET|PG
    v0 mov cr3 = root(gfn=6)
    v0 mov cr4 = PAE|PCIDE
    v0 store 0x0 = pte(gfn=14, P|W|U|A|D) emulated locked
    v0 set_sregs cr0=PE|ET|WP|PG cr3=root(gfn=6) cr4=PAE efer=NX
    v0 load 0x0""",
    """v0 mov cr4 = 0
    v0 vm entry cr3=root(gfn=6)
    v0 mov cr4 = PAE|PCIDE
    v0 vm exit
    v0 mov cr3 = root(gfn=12)
    host set_nr_mmu_pages 8
    host write 0x38 = pte(gfn=3, P|W)
    v0 set_sregs cr0=PE|ET|WP|PG cr3=root(gfn=1) cr4=PAE|SMEP efer=NX
    v0 load 0x120 begin"""])
def test_pdptes_loaded_by_a_refused_cr4_that_sets_pae(lines):
    rows = [ops.parse_line(line) for line in lines.splitlines()]
    machine = geometry.MACHINES["nested-pae"]
    others = [name for name in known.DEVIATIONS if name != "pdptrs-early"]
    outcomes = [search.replay(geometry.Arena(machine, "linux-6.12", 1, copies=2, aside=known.mask(names)), rows)[0]
                for names in (known.DEVIATIONS, others)]
    assert outcomes[0] == 0 and outcomes[1] != 0
