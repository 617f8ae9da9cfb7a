"""The command line of a table: the cases asked for, and a file from which it goes on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path


def print_table(
    summary: str, cases: Mapping[str, Callable[[], dict[str, str]]], good: Collection[str]
) -> None:
    """Print the row that every case makes, and how many cells of each column are good.

    A case named "planted" is no part of it, unless it is asked for.
    """
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a line of JSON for every row")
    options = parser.parse_args()
    lines = options.json.read_text().splitlines() if options.json and options.json.exists() else []
    rows = [json.loads(line) for line in lines]
    known = {row["case"] for row in rows}
    for name, make in cases.items():
        asked = any(part in name for part in options.only)
        if name in known or not (asked or (not options.only and name != "planted")):
            continue
        rows.append({"case": name} | make())
        print(*rows[-1].values(), sep=" | ", flush=True)
        if options.json:
            with options.json.open("a") as file:
                print(json.dumps(rows[-1]), file=file)
    for column in rows[0] if rows else ():
        if column != "case":
            print(f"{column}: {sum(row[column] in good for row in rows)} of {len(rows)}")
