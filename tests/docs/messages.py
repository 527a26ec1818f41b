#!/usr/bin/env python3
"""Fails where docs/troubleshooting.md quotes words that no program says. What is quoted is bold code; capitals and
numbers in it stand for what differs. Each piece between them has to be in a string of the sources, or to be what an
errno means.

Usage: messages.py SOURCE_DIRECTORY
"""
import errno
import os
import pathlib
import re
import sys

QUOTED = re.compile(r"\*\*`([^`]+)`\*\*")
# A string's text, with the strings that the compiler puts together with it.
STRINGS = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*')
PIECES = re.compile(r"\b(?:[A-Z]{2,}(?![A-Z_a-z(])|N)\b|\b\d+\b")


def strings_of(source):
    texts = []
    for directory in ("daemon", "libclient", "tools"):
        for path in sorted((source / directory).rglob("*.[ch]pp")):
            for found in STRINGS.findall(path.read_text(encoding="utf-8")):
                joined = "".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', found))
                texts.append(joined.replace('\\"', '"').replace("\\n", "\n"))
    return texts


def main():
    source = pathlib.Path(sys.argv[1]).resolve()
    page = re.sub(r"\s+", " ", (source / "docs/troubleshooting.md").read_text(encoding="utf-8"))
    texts = strings_of(source)
    meanings = {os.strerror(code) for code in errno.errorcode}
    quoted = QUOTED.findall(page)
    bad = 0
    for words in quoted:
        for piece in PIECES.split(words):
            for part in piece.split(": "):
                part = part.strip(" :.,(){}")
                if len(part) < 4 or part in meanings:
                    continue
                if not any(part in text for text in texts):
                    print(f"messages: nobody says \"{part}\", of \"{words}\"")
                    bad += 1
    if not quoted:
        sys.exit("messages: nothing is quoted")
    print(f"messages: {len(quoted)} quotations, {bad} pieces of them unknown")
    sys.exit(1 if bad else 0)


main()
