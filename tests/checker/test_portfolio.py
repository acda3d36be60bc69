# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan of a search that is told nothing: it covers everything, repeats itself, and goes on where it was stopped."""

import pytest

from shadowmmu.checker import geometry, portfolio
from shadowmmu.checker.portfolio import Plan
from shadowmmu.state import JIT

SMALL = 8_000 if JIT else 1_500


def test_one_round_visits_every_machine_and_mode():
    plan = Plan("linux-6.12", machines=["4-level", "32-bit"])
    assert plan.run(operations=8 * portfolio.SLICES[0]) == []
    assert [row["operations"] for row in plan.bounds()] == [portfolio.SLICES[0]] * 8
    assert set(Plan("linux-6.12").machines) == set(geometry.MACHINES)


def test_a_stopped_plan_goes_on_exactly():
    whole, parts = Plan("linux-6.12", machines=["pcid"], seed=7), Plan("linux-6.12", machines=["pcid"], seed=7)
    whole.run(operations=2 * SMALL)
    parts.run(operations=SMALL)
    parts = Plan.restore(parts.save())
    parts.run(operations=2 * SMALL - parts.progress().operations)
    assert parts.bounds() == whole.bounds()
    assert parts.progress().operations == whole.progress().operations
    assert [int(x) for lane in parts.lanes for x in lane.work] == [int(x) for lane in whole.lanes for x in lane.work]


def test_shares_differ():
    one, two = (Plan("linux-6.12", machines=["4-level", "pae"], share=(i, 2)) for i in range(2))
    for plan in (one, two):
        plan.run(operations=6 * portfolio.SLICES[0])
    exhaustive = [[row["operations"] for row in plan.bounds() if row["mode"] == "exhaustive"] for plan in (one, two)]
    assert all((a == 0) != (b == 0) for a, b in zip(*exhaustive))
    assert [row["states"] for row in one.bounds()] != [row["states"] for row in two.bounds()]


@pytest.mark.parametrize("damage", [b"", b"not a plan", b"x\x9c"])
def test_what_is_no_plan_is_told(damage):
    with pytest.raises(portfolio.PlanError):
        Plan.restore(damage)


def test_a_plan_needs_a_budget():
    with pytest.raises(portfolio.PlanError):
        Plan("linux-6.12").run()
