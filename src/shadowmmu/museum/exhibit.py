# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading exhibits.  One is a patch file (state/patch.py) whose docstring has a title, a header and a story:

    \"\"\"get_child_sp takes a linked table for another gfn.
                                                        header: every line `name: value`, all names of FIELDS, `-` for nothing
    id:      A3
    year:    2026
    commits: 0cb2af2ea66a
    cve:     CVE-2026-46113
    rules:   linux-6.12                                 and fields that are different in both, e.g. nx_huge_pages=1
    change:  child_gfn_must_match=0                     fields of the rules (rules/fields.py) that are different
    breaks:  warning                                    kind of failure (checker/verify.py) of the shortest script;
                                                        `nothing` where the change is said to be harmless
    needs:   host                                       of NEEDS
    length:  4                                          operations of the shortest script known
    base:    other.py                                   (only where it is so) another exhibit's file, whose functions stand where
                                                        this one has none of its own (state/patch.py)

    The story, in paragraphs.  The last one begins with `Fix:`.
    \"\"\"

    @replaces("mmu.faults.get_child_sp")                none, if `change` says it all
    def get_child_sp(vm, ...):

Broken is the exhibit's functions under `rules` with `change`; mended is `rules` alone.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from .. import rules as rule_sets
from ..checker import verify
from ..state.patch import Patch

FIELDS = ("id", "year", "commits", "cve", "rules", "change", "breaks", "needs", "length")
#: What a bug needs besides one vCPU and guest code.
NEEDS = {"two vCPUs", "host", "SMM", "large host pages", "no guest paging", "interleaving", "nested guest"}
KINDS = {failure[0] for failure in verify.FAILURES.values()} | {"nothing"}
HERE = Path(__file__).parent
FOLDERS = (HERE / "exhibits", HERE / "seeds", HERE / "role_bits")


class ExhibitError(Exception):
    """An exhibit's file is not as it should be: file and what is wrong."""


@dataclass(frozen=True)
class Exhibit:
    """id: row of the dossier or name.  change: rule fields; functions: what the patch and its bases replace; base: the file of
    the exhibit that this one differs from, or None; length: None if no script is known (`breaks` is then empty, too)."""

    path: Path
    title: str
    id: str
    year: str
    commits: tuple
    cve: str
    rules: str
    with_fields: dict
    change: dict
    breaks: tuple
    needs: tuple
    length: int | None
    story: str
    functions: tuple
    base: str | None

    @property
    def mended_rules(self):
        """Values of all rule fields without the fault."""
        return rule_sets.RULES[self.rules] | self.with_fields

    @property
    def broken_rules(self):
        """The same with it."""
        return self.mended_rules | self.change

    @property
    def script_path(self):
        return HERE / "scripts" / (self.path.stem + ".txt")

    @property
    def script(self):
        """The stored script, or None."""
        return self.script_path.read_text() if self.script_path.exists() else None

    @property
    def fix(self):
        return self.story[self.story.index("Fix:"):]


def _words(value):
    return () if value == "-" else tuple(word.strip() for word in value.split(","))


def read(path):
    """The exhibit in a file.  Raises ExhibitError."""
    path = Path(path)

    def wrong(text):
        return ExhibitError(f"{path.name}: {text}")

    try:
        tree = ast.parse(path.read_text(), str(path))
    except (OSError, SyntaxError) as error:
        raise wrong(error) from None
    doc = ast.get_docstring(tree) or ""
    title, _, rest = doc.partition("\n\n")
    header, _, story = rest.partition("\n\n")
    values = dict(re.findall(r"^(\w+): +(.*?)\s*$", header, re.MULTILINE))
    known_names = (*FIELDS, "base") if "base" in values else FIELDS
    if tuple(values) != known_names or len(header.splitlines()) != len(known_names):
        raise wrong(f"the header must have the lines {', '.join(FIELDS)}; it has {', '.join(values) or 'none'}")
    if "Fix:" not in story:
        raise wrong("the story has no paragraph that begins with Fix:")
    base, *more = values["rules"].split()
    if base not in rule_sets.RULES:
        raise wrong(f"no rules named {base}")
    fields = []
    for words in (more, _words(values["change"])):
        fields.append({})
        for word in words:
            field, _, value = word.partition("=")
            if field not in rule_sets.FIELDS or not re.fullmatch(r"-?\d+|0x[0-9a-f]+", value):
                raise wrong(f"{word!r} is not a field of the rules with a number")
            fields[-1][field] = int(value, 0)
    for name, known in (("breaks", KINDS), ("needs", NEEDS)):
        if not set(_words(values[name])) <= known:
            raise wrong(f"{name}: {values[name]}; known are {', '.join(sorted(known))}")
    if not re.fullmatch(r"\d+|-", values["length"]):
        raise wrong(f"length {values['length']!r} is not a number")
    functions = tuple(functions_of(path))
    if not functions and not fields[1]:
        raise wrong("neither a function nor a rule is changed")
    return Exhibit(path, " ".join(title.split()).rstrip("."), values["id"], values["year"], _words(values["commits"]),
                   values["cve"], base, *fields, _words(values["breaks"]), _words(values["needs"]),
                   None if values["length"] == "-" else int(values["length"]), story.strip(), functions, values.get("base"))


def functions_of(path):
    """Name of what is replaced -> the replacement (ast), those of the base included.  Raises ExhibitError."""
    patch = Patch(str(path))
    if patch.problem:
        raise ExhibitError(patch.problem)
    return patch.functions


def code_of(exhibit):
    """The functions of an exhibit, without comments and story."""
    return "\n".join(ast.unparse(node) for node in functions_of(exhibit.path).values())


def store(exhibit, script, length, kind):
    """Keep a script as the exhibit's shortest: in scripts/, and its length and kind in the header."""
    exhibit.script_path.parent.mkdir(exist_ok=True)
    exhibit.script_path.write_text(script)
    text = exhibit.path.read_text()
    text = re.sub(r"^length: .*$", f"length:  {length}", text, count=1, flags=re.MULTILINE)
    exhibit.path.write_text(re.sub(r"^breaks: .*$", f"breaks:  {kind}", text, count=1, flags=re.MULTILINE))


def _order(exhibit):
    letter, number, rest = re.fullmatch(r"(\D*)(\d*)(.*)", exhibit.id).groups()
    return letter, int(number or 0), rest


def every():
    """All exhibits, in the order of their ids."""
    found = [read(path) for folder in FOLDERS for path in sorted(folder.glob("*.py"))]
    for a in found:
        if sum(b.id == a.id for b in found) > 1:
            raise ExhibitError(f"{a.path.name}: the id {a.id} is given twice")
    return sorted(found, key=_order)


def named(id):
    """The exhibit with this id (case does not matter).  Raises ExhibitError."""
    for exhibit in every():
        if exhibit.id.lower() == id.lower():
            return exhibit
    raise ExhibitError(f"no exhibit {id!r}; `shadowmmu museum` lists them")
