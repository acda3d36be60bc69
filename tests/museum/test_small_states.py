# SPDX-License-Identifier: GPL-2.0-or-later
"""Every small state of the root cache and of the unsync bits: today's code, the drafts, and mutants that must show."""

import pytest
from test_exhibits import replays

EVICTS = "a root is evicted although a place is empty"
#: Root cache: 297 states each.  That the LRU root goes although another place is empty is today's behaviour, too.
ROOTS = {
    "today": {EVICTS: 48}, "S000.posted": {EVICTS: 48},
    "S003.before": {EVICTS: 48, "a cached root is not used": 27},
    # an invalid current root takes part in the rotation
    "S000.before": {EVICTS: 48, "the order is not that of use": 77},
    "S000.f1": {EVICTS: 48, "a root stands in two places": 6, "a count does not fit the references": 8,
                "the order is not that of use": 6},
    "S000.f2": {EVICTS: 48, "a root stands in two places": 12, "a count does not fit the references": 12},
    "S000.f3": {EVICTS: 48, "the order is not that of use": 14},
}
HARMLESS = ("today", "S001.with04", "S001.review")


@pytest.fixture(scope="module")
def judged():
    return replays("states")


@pytest.mark.parametrize("name", ROOTS)
def test_root_cache(judged, name):
    assert judged[f"roots {name}"] == [297, ROOTS[name]]


@pytest.mark.parametrize("name", HARMLESS)
def test_unsync_bits_in_order(judged, name):
    assert judged[f"unsync {name}"] == [2187 + 20, {}]


def test_clearing_twice_counts_below_zero(judged):
    wrong = judged["unsync S001.alone"][1]
    assert wrong["a count below zero"] > 500 and wrong["an unsync page is missed"] > 0


@pytest.mark.parametrize("name", ["S001.refuse", "S001.parents"])
def test_unsync_pages_get_lost(judged, name):
    assert judged[f"unsync {name}"][1]["a page that stays unsync is out of reach"] > 0
