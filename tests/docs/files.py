#!/usr/bin/env python3
"""Fails where a page names a file of the project that is not there. Names are code with a slash and an ending, or below
a known directory, from the project's root; in some pages from daemon/ or tests/ too.

Usage: files.py SOURCE_DIRECTORY
"""
import pathlib
import re
import sys

from links import pages

NAMED = re.compile(r"`((?:\.?[\w-]+/)+[\w.-]*\.(?:[ch]pp|h|py|cmake|map|md|[1-8]|in|txt|toml|service|socket))"
                   r"(?:[:`])")
# Where a name may begin, besides the root.
ROOTS = ["", "daemon", "include", "include/faultline", "tests", "docs", "libclient"]


def main():
    source = pathlib.Path(sys.argv[1]).resolve()
    bad = 0
    named = 0
    for page in pages(source):
        if page.name == "CHANGELOG.md":
            continue  # tells of what was there then
        for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
            for name in NAMED.findall(line):
                named += 1
                if not any((source / root / name).exists() for root in ROOTS):
                    print(f"{page.relative_to(source)}:{number}: {name}: no such file")
                    bad += 1
    if named == 0:
        sys.exit("files: none is named")
    print(f"files: {named} names, {bad} of no file")
    sys.exit(1 if bad else 0)


main()
