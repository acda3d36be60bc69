# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark as text of at most 76 columns, to be pasted into a mail."""


def number(value):
    """Three digits and a unit: 1.23 M."""
    if value is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}  "


def ratio(row):
    """compiled / C beside its budget."""
    if row.ratio is None:
        return "   -"
    return f"{row.ratio:5.2f}  {row.budget:3.1f} {'ok' if row.ratio >= row.budget else 'missed'}"


def text(results):
    """The report of `Results`."""
    m, o = results.machine, results.options
    out = [f"shadowmmu bench: operations/s, best of {o.rounds} interleaved rounds of {o.seconds:g} s",
           f"{m['cpu']}, {m['cpus']} CPUs, load {m['load']}", m["system"],
           f"Python {m['python']}, llvmlite {m['llvmlite']}, code for this CPU",
           f"{m['gcc'] or 'no C compiler'}, {m['flags']}",
           ""]
    out.append(f"{'operation':24}{'interpreted':>12}{'compiled':>10}{'C':>10}  ratio  budget")
    for row in results.rows:
        c = number(row.c) if results.no_c is None else ""
        tail = ratio(row) if results.no_c is None else results.no_c
        out.append(f"{row.text:24}{number(row.interpreted):>12}{number(row.compiled):>10}{c:>10}  {tail}".rstrip())
    if results.growth:
        out += ["", f"{'shadow pages':>12}{'ns/fault':>10}{'C':>8}{'state bytes/page':>18}"]
        for g in results.growth:
            c = "-" if g.c_ns is None else f"{g.c_ns:.0f}"
            out.append(f"{g.pages:>12}{g.compiled_ns:>10.0f}{c:>8}{g.state_bytes:>18.0f}")
    out += ["", "bytes: " + ", ".join(f"{what} {size}" for what, size in results.page_bytes.items()) + ", lists"]
    sides = ["compiled"] + ["interpreted"] * o.interpreted + ["C"] * (results.no_c is None)
    if len(sides) > 1:
        out.append(f"{', '.join(sides)}: equal counters, A/D bits and state bytes "
                   f"in {len(results.agree)} of {len(results.rows)}")
    if results.checked:
        out += ["", f"{'checked operations':36}{'compiled':>10}{'budget':>10}"]
        out += [f"{row.name:36}{number(row.rate):>10}{number(row.budget):>10}  {'ok' if row.rate >= row.budget else 'missed'}"
                for row in results.checked]
    if results.readers:
        out += ["", f"{'trace readers':24}{'events/s':>12}{'MB/s':>10}"]
        out += [f"{row.name:24}{number(row.events):>12}{row.octets / 1e6:>10.1f}" for row in results.readers]
    return "\n".join(out)
