# SPDX-License-Identifier: GPL-2.0-or-later
"""What the digest leaves out is a symmetry: the same operations by the other vCPU lead to the same digest, and the alphabets are
closed under that exchange."""

import random

import pytest

from shadowmmu import state
from shadowmmu.checker import alphabet, digest, entries, geometry, known, ops
from shadowmmu.state import JIT, core

ASIDE = known.mask(known.DEVIATIONS)


@core
def digest_of(handle, area):
    """The digest of a state."""
    return digest.digest(state.attach(handle), area)


def exchanged(row):
    """The operation as the other vCPU does it (the host's stay)."""
    return row if row[0] >= ops.HOST_WRITE else (row[0], 1 - row[1], *row[2:])


@pytest.mark.parametrize("small", (False, True))
@pytest.mark.parametrize("name", geometry.MACHINES)
def test_alphabets_are_closed(name, small):
    rows = [row for kind in alphabet.alphabet(geometry.MACHINES[name], 2, small).values() for row in kind]
    assert {exchanged(row) for row in rows} == set(rows)


@pytest.mark.parametrize("name", geometry.MACHINES)
def test_vcpus_can_be_exchanged(name):
    one, two = (geometry.Arena(geometry.MACHINES[name], "linux-6.12", 2, copies=2, aside=ASIDE) for _ in range(2))
    rows = [row for kind in alphabet.alphabet(geometry.MACHINES[name], 2).values() for row in kind]
    choose, met = random.Random(name), set()
    for _ in range(300 if JIT else 2):
        for arena in (one, two):
            arena.copy(1, 0)
        for _ in range(40 if JIT else 15):
            row = choose.choice(rows)
            for arena, its in ((one, row), (two, exchanged(row))):
                assert entries.perform(arena.handle(1), arena.area, entries.table_of([its]), 0) == 0
            digests = [digest_of(arena.handle(1), arena.area) for arena in (one, two)]
            assert digests[0] == digests[1], ops.show(row)
            met.add(digests[0])
    assert len(met) > (20 if JIT else 5)
