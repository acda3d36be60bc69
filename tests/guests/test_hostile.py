# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that mean no good come to a clear end.  More of them: `python tests/guests/hostile.py 0 1000 30000`."""

import hostile
import pytest

CLEAR_ENDS = {"shutdown", "limit", "halted", "timeout", "internal error", "exit"}


@pytest.mark.parametrize("seed", range(12))
def test_random_guest_ends(seed):
    assert hostile.outcome(seed, 20_000) in CLEAR_ENDS


def test_fault_storm_is_a_triple_fault():
    assert hostile.outcome(2, 20_000) == "shutdown"


def test_self_modifying_tables_run_into_their_limit_or_die():
    ends = {hostile.outcome(seed, 20_000) for seed in (1, 4, 7, 10)}
    assert ends <= {"limit", "shutdown", "timeout"} and ends != {"timeout"}
