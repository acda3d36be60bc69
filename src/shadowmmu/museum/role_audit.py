# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu museum --role-audit`: what each bit of the page role is there for.

    lookup, linked child and cached root compare roles without the bit
        --search, invariants and warnings not asked (patches/guest_sees.py)-->
              the shortest difference that a guest or its host sees, or how far there is none

    (role_bits/*.py, one file a bit; `museum --score` searches them with invariants, which often tell sooner)
"""

import json
import sys

from ..state.patch import Patch
from . import command
from . import exhibit as exhibits
from . import score as scores
from .worker import Job

#: Bits that no search here can tell anything about.
NOT_SEARCHED = {
    "invalid": "an invalid page is never compared: every lookup asks for that before",
    "is_mirror": "TDX only",
}
GUEST_SEES = exhibits.HERE / "patches" / "guest_sees.py"


def _search(chosen, seconds, ledger, show, done):
    """Id -> the worker's answer; the second seed where the first finds nothing."""
    answers, left = {}, chosen
    code = scores._hash(Patch(str(GUEST_SEES)).text)
    for seed in scores.SEEDS:
        keys = {x.id: f"guest sees {code} {x.id} {sorted(x.broken_rules.items())} {seconds} seed {seed}" for x in left}
        jobs = [(keys[x.id], f"{x.id}, seed {seed}", Job(x.id, "broken", seconds, more=scores.MORE, seed=seed,
                                                         patch=str(GUEST_SEES))) for x in left]
        scores._run(jobs, ledger, show, done)
        answers |= {x.id: ledger.answers[keys[x.id]] | {"seed": seed} for x in left}
        left = [x for x in left if "error" not in answers[x.id] and not answers[x.id]["found"]]
    return answers


def told(x, answer):
    """One bit's row as text: the bit, the difference, its script; or the bound."""
    bit = x.id.removeprefix("R.")
    if "error" in answer:
        return f"{bit}: {answer['error']}\n"
    sooner = x.length and answer["kind"] not in x.breaks
    with_invariants = f" (with invariants: {', '.join(x.breaks)}, {x.length})" if sooner else ""
    if not answer["found"]:
        return f"{bit}: no guest sees it in {answer['searched']:,} operations (seed {answer['seed']}){with_invariants}\n"
    n = answer["length"]
    script = [line for line in answer["script"].splitlines() if not line.startswith(("rules", "vcpus 1"))]
    head = f"{bit}: {answer['kind']}, {n} operation{'s' if n > 1 else ''}{with_invariants}"
    return "".join(f"{line}\n" for line in (head, *(f"    {line}" for line in script)))


def main(seconds=60.0, as_json=False, out=sys.stdout, err=sys.stderr):
    """Search with each bit left out."""
    chosen = [x for x in exhibits.every() if x.id.startswith("R.")]
    answers = _search(chosen, seconds, scores.Ledger(), command._progress(err), command._lines(err))
    command._clear(err)
    if as_json:
        print(json.dumps({"bits": [{"id": x.id, "books": list(x.breaks), **answers[x.id]} for x in chosen],
                          "not_searched": NOT_SEARCHED}, indent=2), file=out)
        return 0
    print("What a guest sees when two roles that differ in one bit only are taken for the same:\n", file=out)
    for x in chosen:
        print(told(x, answers[x.id]), end="", file=out)
    for bit, why in NOT_SEARCHED.items():
        print(f"{bit}: not searched; {why}", file=out)
    return 0
