# SPDX-License-Identifier: GPL-2.0-or-later
"""What the user may ask of the benchmark."""

import argparse
from dataclasses import dataclass

from .errors import BenchError
from .operations import OPERATIONS

#: Shadow pages of the growth rows.
GROWTH = (1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Options:
    """seconds: length of one timing.  rounds: timings of each kind.  only: names of operations (empty: all).
    interpreted: measure the interpreter, too.  growth: page counts of the growth rows (empty: none)."""

    seconds: float = 0.1
    rounds: int = 7
    only: tuple = ()
    interpreted: bool = True
    growth: tuple = GROWTH
    json: bool = False

    def check(self):
        """Raise BenchError for values that make no sense."""
        if not 0 < self.seconds <= 60:
            raise BenchError(f"--seconds {self.seconds:g} is outside 0..60")
        if not 1 <= self.rounds <= 1000:
            raise BenchError(f"--rounds {self.rounds} is outside 1..1000")
        for name in self.only:
            if name not in OPERATIONS:
                raise BenchError(f"no operation {name!r}; there are: {', '.join(OPERATIONS)}")
        for pages in self.growth:
            if not 1 <= pages <= 200_000:
                raise BenchError(f"--growth {pages} is outside 1..200000 shadow pages")


def parse(arguments):
    """Options from a command line.  Raises BenchError with one line."""
    parser = argparse.ArgumentParser(prog="shadowmmu bench", exit_on_error=False,
                                     description="how fast the core is, as a share of C")
    parser.add_argument("--seconds", type=float, default=Options.seconds, help="length of one timing")
    parser.add_argument("--rounds", type=int, default=Options.rounds, help="timings of each kind; the best counts")
    parser.add_argument("--only", default="", help="operations, separated by commas: " + ", ".join(OPERATIONS))
    parser.add_argument("--growth", default=",".join(map(str, GROWTH)), help="shadow pages of the growth rows, or none")
    parser.add_argument("--no-interpreted", action="store_true", help="leave out the interpreter")
    parser.add_argument("--json", action="store_true", help="all figures of all rounds as JSON")
    try:
        found, unknown = parser.parse_known_args(arguments)
        growth = () if found.growth == "none" else tuple(int(pages) for pages in found.growth.split(","))
    except (argparse.ArgumentError, ValueError) as error:
        raise BenchError(str(error)) from None
    if unknown:
        raise BenchError(f"no option {unknown[0]}")
    return Options(found.seconds, found.rounds, tuple(filter(None, found.only.split(","))), not found.no_interpreted,
                   growth, found.json)
