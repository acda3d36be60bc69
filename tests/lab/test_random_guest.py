# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/g9b1.md: the recorded random guest judged by the oracle.  The runs are the recorded ones: faults and checksums say so."""

import pathlib
import re

import pytest

from shadowmmu.guests.image import GuestImageError
from shadowmmu.lab import random_guest

GOLDEN = pathlib.Path(__file__).parent.parent / "data" / "golden"


@pytest.fixture(scope="module")
def verdicts():
    return {kernel: random_guest.run(str(GOLDEN / "guests" / "g9b1.cfg"), f"linux-{kernel}") for kernel in ("6.12", "7.2")}


@pytest.mark.parametrize("kernel", ["6.12", "7.2"])
def test_what_the_guest_reports_is_what_was_recorded(verdicts, kernel):
    recorded = (GOLDEN / "logs" / kernel / "g9b1" / "result.txt").read_text().splitlines()
    assert verdicts[kernel].values == [line for line in recorded if re.match(r"VAL|PF", line)]
    assert len(verdicts[kernel].values) > 700


def test_every_access_is_judged_and_one_is_not_permitted(verdicts):
    for verdict in verdicts.values():
        assert len(verdict.accesses) == 901
        assert [(a.number, a.permitted, a.got) for a in verdict.wrong] == [(1902, ["#PF 0x9"], "page 0x223")]


def test_the_kernels_differ_in_one_access_and_both_are_right(verdicts):
    rows = random_guest.compare(list(verdicts.values()))["differ or not permitted"]
    assert [row["operation"] for row in rows] == [1355, 1902]
    assert rows[0]["got"] == {"linux-6.12": "page 0x205", "linux-7.2": "#PF 0x9"}
    assert all(set(row) == {"#PF 0x9", "page 0x205"} for row in rows[0]["permitted"].values())


def test_other_guests_are_refused():
    with pytest.raises(GuestImageError, match="not one of the random 32-bit guests"):
        random_guest.run(str(GOLDEN / "guests" / "g3.cfg"), "linux-6.12")
    with pytest.raises(GuestImageError, match="no such rules"):
        random_guest.rules_of("linux-9")
