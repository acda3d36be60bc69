# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu museum --role-audit`: what each bit of the page role is there for.

    lookup, linked child and cached root compare roles without the bit --search--> the shortest visible difference, or how far
    none was found                                                     (role_bits/*.py, one file a bit)
"""

import json
import sys

from . import command
from . import exhibit as exhibits
from . import score as scores

#: Bits that no search here can tell anything about.
NOT_SEARCHED = {
    "invalid": "an invalid page is never compared: every lookup asks for that before",
    "is_mirror": "TDX only",
}


def main(seconds=60.0, as_json=False, out=sys.stdout, err=sys.stderr):
    """Search with each bit left out."""
    chosen = [x for x in exhibits.every() if x.id.startswith("R.")]
    rows, _ = scores.score(chosen, seconds, show=command._progress(err), done=command._lines(err))
    command._clear(err)
    if as_json:
        print(json.dumps({"bits": rows, "not_searched": NOT_SEARCHED}, indent=2), file=out)
        return 0
    for r in rows:
        bit = r["id"].removeprefix("R.")
        if r["found"]:
            print(f"{bit}: {r['kind']}, {r['operations']} operations, found in {r['seconds']} s", file=out)
            print("".join(f"    {line}\n" for line in r["script"].splitlines() if not line.startswith(("rules", "vcpus 1"))),
                  end="", file=out)
        else:
            print(f"{bit}: no difference in {r['searched']:,} operations, {r['states']:,} states"
                  + (f" ({r['error']})" if r["error"] else ""), file=out)
    for bit, why in NOT_SEARCHED.items():
        print(f"{bit}: not searched; {why}", file=out)
    return 0
