# SPDX-License-Identifier: GPL-2.0-or-later
"""Rule sets: complete, nothing unknown, and the differences that the dossier names by version."""

import pytest

from shadowmmu import rules
from shadowmmu.rules.fields import FIELDS
from shadowmmu.vm import Vm, VmError


@pytest.mark.parametrize("name", sorted(rules.RULES))
def test_a_rule_set_has_exactly_the_fields(name):
    assert set(rules.RULES[name]) == set(FIELDS)
    assert all(isinstance(value, int) for value in rules.RULES[name].values())


def test_every_field_says_what_it_decides():
    assert all(text for text in FIELDS.values())


def test_the_default_exists():
    assert rules.DEFAULT in rules.RULES


@pytest.mark.parametrize("field, since", [
    # dossier 3.13: gfn check and zap on link with the fixes of spring 2026, role check of June 2026
    ("child_gfn_must_match", "linux-6.12"), ("link_zaps_any", "linux-6.12"), ("child_role_must_match", "linux-6.12"),
    ("stale_check_after_reclaim", "linux-6.12"), ("drop_before_mmio_spte", "linux-6.12"),
    ("track_all_address_spaces", "linux-6.12"),
])
def test_6_12_0_lacks_the_fixes_of_2026(field, since):
    assert not rules.RULES["linux-6.12.0"][field]
    assert rules.RULES[since][field]


@pytest.mark.parametrize("field, old, new", [
    # dossier 3.13: 6.1 has the triple fault instead of the dummy root and an INVLPG that zaps
    ("dummy_root", 0, 1), ("invlpg_zaps", 1, 0), ("nonpresent_spte", 0, -(1 << 63)),
])
def test_6_1_against_6_12(field, old, new):
    assert rules.RULES["linux-6.1"][field] == old
    assert rules.RULES["linux-6.12"][field] == new


def test_unknown_rules_are_refused_by_name():
    with pytest.raises(VmError, match=r"linux-6\.12"):
        Vm(0, rules="linux-2.4")
