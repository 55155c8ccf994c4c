"""How long until all nodes have a model, by five engines and many sizes: prints a table. The figures of docs/FLEET.md are

    python3 bench/fleet/simulate.py --write                     # the table in docs/FLEET.md, and docs/fleet.svg
    python3 bench/fleet/simulate.py --check --sizes 10,1000     # fails unless the table there has these rows

Other sites: `--set uplink=12.5 --set cluster=100000`, with the names of `Site` in engines.py (GB, GB/s, seconds).
"""

import argparse
import dataclasses
import math
import sys
from pathlib import Path

from draw import drawing
from engines import ENGINES, Outcome, Site, run

SIZES = [10, 100, 1000, 10000, 100000]
DRAWN = 1000  # Nodes of the second panel.
DOCUMENT = Path(__file__).parents[2] / "docs/FLEET.md"
DRAWING = DOCUMENT.with_name("fleet.svg")
BEGIN, END = "<!-- simulate.py: begin -->\n", "<!-- simulate.py: end -->\n"


def span(seconds: float) -> str:
    """A time as people say it, with two or three digits."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def amount(gigabytes: float) -> str:
    if gigabytes < 1000:
        return f"{gigabytes:.0f} GB"
    return f"{gigabytes / 1000:.1f} TB" if gigabytes < 10000 else f"{gigabytes / 1000:,.0f} TB"


def row(count: int, name: str, outcome: Outcome) -> str:
    racks = "–" if math.isnan(outcome.across_racks) else f"{outcome.across_racks:.0%}".replace("%", " %")
    requests = f"{outcome.hub_requests:,}" if outcome.hub_requests else "–"
    cells = [f"{count:,}", name, span(outcome.half_ready), span(outcome.all_ready), amount(outcome.from_source), requests, racks]
    return "| " + " | ".join(cells) + " |"


def table(rows: list[str]) -> str:
    head = ["nodes", "engine", "half are ready", "all are ready", "leaves the source", "requests to the hub", "across racks"]
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows]) + "\n"


def simulated(site: Site, sizes: list[int]) -> tuple[list[str], str]:
    """The rows of the table, and the drawing; that one is empty if there are less than two sizes to draw."""
    outcomes = {name: {count: run(name, count, site) for count in sizes} for name in ENGINES}
    rows = [row(count, name, outcomes[name][count]) for count in sizes for name in ENGINES]
    if len(sizes) < 2:
        return rows, ""
    curves = {name: [(count, by_size[count].all_ready) for count in sizes] for name, by_size in outcomes.items()}
    drawn = DRAWN if DRAWN in sizes else sizes[-1]
    return rows, drawing(curves, {name: by_size[drawn].ready for name, by_size in outcomes.items()}, drawn)


def changed(words: list[str]) -> Site:
    known = {field.name: type(field.default) for field in dataclasses.fields(Site)}
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            sys.exit(f"`--set {word}`: expected NAME=VALUE with one of {', '.join(known)}")
        try:
            values[name] = known[name](value)
        except ValueError:
            sys.exit(f"`--set {word}`: expected a number, {'whole' if known[name] is int else 'such as 1.25'}")
    return Site(**values)


def numbers(text: str) -> list[int]:
    sizes = [int(size) for size in text.split(",")]
    if min(sizes) < 1:
        raise ValueError
    return sorted(set(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=SIZES, metavar="N,..", help="numbers of nodes [default: 10 to 100,000]")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a number of the site")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="write the drawing here; it needs two sizes or more")
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--write", action="store_true", help="write the table of docs/FLEET.md and docs/fleet.svg anew")
    told.add_argument("--check", action="store_true", help="compare the rows with those of docs/FLEET.md")
    arguments = parser.parse_args()
    if arguments.write and (arguments.sizes != SIZES or arguments.set):
        parser.error("docs/FLEET.md has all sizes of the default site: leave out --sizes and --set")
    if arguments.draw and len(arguments.sizes) < 2:
        parser.error("--draw needs two sizes or more")

    rows, picture = simulated(changed(arguments.set), arguments.sizes)
    print(table(rows), end="")
    if arguments.draw:
        arguments.draw.write_text(picture)
    before, rest = DOCUMENT.read_text().split(BEGIN)
    there, after = rest.split(END)
    if arguments.write:
        DOCUMENT.write_text(before + BEGIN + table(rows) + END + after)
        DRAWING.write_text(picture)
    if arguments.check:
        missing = [row for row in rows if row not in there.splitlines()]
        if missing:
            sys.exit("\n".join([f"{DOCUMENT} lacks these rows: run with --write", *missing]))


if __name__ == "__main__":
    main()
