#!/usr/bin/env python3
"""Fails where a man page is not clean mdoc(7): mandoc's lint and groff's warnings have to be silent.

Usage: man_pages.py DIRECTORY
"""
import pathlib
import subprocess
import sys


def complaints_of(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0 and not said:
        said = f"{' '.join(command)}: exit status {done.returncode}"
    return said


def main():
    pages = sorted(pathlib.Path(sys.argv[1]).glob("*.[1-8]"))
    if not pages:
        sys.exit("man_pages: no pages there")
    bad = False
    for page in pages:
        for command in (["mandoc", "-T", "lint", "-W", "warning", str(page)],
                        ["groff", "-mandoc", "-T", "utf8", "-ww", "-z", str(page)]):
            said = complaints_of(command)
            if said:
                print(said)
                bad = True
    print(f"man_pages: {len(pages)} pages")
    sys.exit(1 if bad else 0)


main()
