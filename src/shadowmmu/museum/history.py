# SPDX-License-Identifier: GPL-2.0-or-later
"""Rule sets through time: what a piece of the MMU was at some moment, as values of rule fields and patches.

    shadowmmu check --variant 2018-victim-cache         shadowmmu check --variant A3         (an exhibit is a variant, too)

A set is the part that its seed is about, as it was, on the rest of `rules`: its other bugs of the time are exhibits of
their own.
"""

from dataclasses import dataclass

from .. import rules as rule_sets
from . import exhibit as exhibits


@dataclass(frozen=True)
class RuleSet:
    """rules: the base; exhibits: ids whose changes are put together; what: in one line."""

    rules: str
    exhibits: tuple
    what: str


SETS = {
    "avi-2007": RuleSet("linux-6.1", ("S004.writable", "S004.role", "C1"),
                        "seed 004 as posted: no access rights or control bits in the role, writable mappings are not revoked"),
    "2018-victim-cache": RuleSet("linux-6.1", ("S000.before", "S003.before"),
                                 "before seed 003: 64-bit guests only, the current root is not looked at"),
    "2020-reuse-current": RuleSet("linux-6.1", ("S000.before",), "seed 003: the current root is looked at first"),
    "2022-levels": RuleSet("linux-6.1", ("S000.before",), "before seed 000: levels decide whether there is a cache"),
    "seed-000-posted": RuleSet("linux-6.12", ("S000.posted",), "no check for a missing shadow page"),
    "seed-000-merged": RuleSet("linux-6.12", (), "5499ea73e7db"),
    "seed-001-posted": RuleSet("linux-6.12", ("S001.alone",), "patch 05 without patch 04"),
    "seed-001-with-04": RuleSet("linux-6.12", ("S001.with04",), "patches 04 and 05"),
    "seed-001-review": RuleSet("linux-6.12", ("S001.review",), "the reviewer's version"),
    "seed-002-posted": RuleSet("linux-6.12", ("S002.posted",), "a change of role keeps the roots"),
    "seed-002-merged": RuleSet("linux-6.12", (), "82518a181e6c: flushes stand on their own, roots are unloaded"),
    **{name.removeprefix("linux-"): RuleSet(name, (), "the kernel's rules") for name in rule_sets.RULES},
}


def variant(name):
    """(rule values, paths of patch files) of a rule set or an exhibit.  Raises ExhibitError for an unknown name."""
    if name in SETS:
        parts = [exhibits.named(id) for id in SETS[name].exhibits]
        values = dict(rule_sets.RULES[SETS[name].rules])
        for x in parts:
            values |= x.change
        return values, [str(x.path) for x in parts if x.functions]
    try:
        x = exhibits.named(name)
    except exhibits.ExhibitError:
        raise exhibits.ExhibitError(f"no variant {name!r}; there are the exhibits (`shadowmmu museum`) and "
                                    f"{', '.join(SETS)}") from None
    return x.broken_rules, [str(x.path)] if x.functions else []
