"""Writes a source with one fault in it.

usage: plant.py SOURCE OUT FROM TO [AFTER]

FROM must stand in the source, once behind the first AFTER; it becomes TO.
"""

import pathlib
import sys


def main():
    source, out, old, new = sys.argv[1:5]
    after = sys.argv[5] if len(sys.argv) > 5 else ""
    text = pathlib.Path(source).read_text(encoding="utf-8")
    head, found, rest = text.partition(after) if after else ("", "", text)
    if (after and not found) or (rest.count(old) != 1 if not after else old not in rest):
        sys.exit(f"{source}: the place of the fault has changed: {old}")
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + found + rest.replace(old, new, 1), encoding="utf-8")


main()
