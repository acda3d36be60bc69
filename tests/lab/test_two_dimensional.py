# SPDX-License-Identifier: GPL-2.0-or-later
"""`lab two-dimensional`: what the table must show whatever the machine: APM vol. 2 15.25, dossier 1.3 and 2.3."""

import json
import os
import subprocess
import sys

import pytest

from shadowmmu.guests import hypervisor
from shadowmmu.lab import two_dimensional
from shadowmmu.lab.errors import LabError
from shadowmmu.rules import DEFAULT


@pytest.fixture(scope="module")
def rows():
    return {row.name: row for row in two_dimensional.run("64", timeout=120, nested_on=("tdp",))}


def test_references_of_a_walk(rows):
    """4 in one dimension, (4 + 1) * 4 + 4 in two; no walk of the 4-level tables here reads more."""
    for name, row in rows.items():
        one_dimensional = name.endswith("shadow paging") and " on " not in name or name.endswith("on shadow paging")
        assert row.most == (4 if one_dimensional else 24), name
        assert row.walks < row.refs <= row.most * row.walks


def test_exits_and_faults(rows):
    shadow, tdp, legacy = (rows[f"alone, {title}"] for title in two_dimensional.MMUS.values())
    # only shadow paging has exits for MOV CR3, INVLPG and the guest's own page faults
    assert shadow.exits > 10 * tdp.exits > 10 * legacy.exits
    assert shadow.to_guest > 50 and tdp.to_guest == legacy.to_guest == 0
    # the legacy direct MMU maps eight neighbours at each fault
    assert tdp.faults > 4 * legacy.faults > 0
    assert tdp.tables == legacy.tables < shadow.tables
    for row in (shadow, tdp, legacy):
        assert row.vmruns == 0 and row.faults < row.exits


@pytest.mark.parametrize("guest", hypervisor.GUESTS)
def test_faults_are_those_that_kvm_took(guest, monkeypatch):
    """The compiled path handles MOV CR3 and INVLPG of 32-bit code, too, and counts them with its #PF exits."""
    class Counts(two_dimensional._Counts):
        def take(self):
            return super().take() | {"taken": self.vm.vcpus[0].stat["pf_taken"]}

    monkeypatch.setattr(two_dimensional, "_Counts", Counts)
    end = two_dimensional.measure(hypervisor.GUESTS[guest], "shadow", DEFAULT, "amd", timeout=60)[0][-1]
    assert end["faults"] == end["taken"] > 0 and end["exits"] > 2 * end["faults"]


def test_nested_runs(rows):
    shadow = rows["nested, L1's shadow paging on TDP MMU"]
    both = rows["nested, nested paging on TDP MMU"]
    # nested paging spares L1 nearly all entries into its guest
    assert shadow.vmruns > 100 * both.vmruns > 0
    assert shadow.exits > 2 * rows["alone, shadow paging"].exits and shadow.exits > 10 * both.exits
    # the guest's own faults and CR3 writes go through L1, each an exit of its own and a VMRUN
    assert shadow.exits > 2 * shadow.vmruns


def test_the_table_fits_into_a_mail(rows):
    text = two_dimensional.table(list(rows.values()))
    assert max(map(len, text.splitlines())) <= 76
    assert f"{rows['alone, TDP MMU'].refs:,}" in text


def test_bad_input():
    with pytest.raises(LabError, match="no guest '16'; there are: 64, pae"):
        two_dimensional.run("16")
    done = subprocess.run([sys.executable, "-m", "shadowmmu", "lab", "two-dimensional", "--rules", "linux-2"],
                          capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2 and done.stderr.startswith("shadowmmu: --rules 'linux-2': there is linux-")


def test_json(capsys, rows, monkeypatch):
    monkeypatch.setattr(two_dimensional, "run", lambda *_: list(rows.values()))
    two_dimensional.command("64", "linux-6.12", "amd", True, None)
    data = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in data["rows"]] == list(rows) and data["rows"][0]["most"] == 4
