#!/usr/bin/env python3
"""Fails where a link in a Markdown page leads nowhere: a file that is not there, or an anchor that no heading of it
has; and where a page of docs/ is not in its index, docs/README.md. Links to other sites are not followed.

Usage: links.py DIRECTORY      every *.md below it that is not in build/ or hidden
"""
import pathlib
import re
import sys

from markdown import INLINE_CODE, heading_anchors, outside_code

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")


def pages(root):
    for path in sorted(root.rglob("*.md")):
        parts = path.relative_to(root).parts
        if parts[0] != "build" and not any(part.startswith(".") for part in parts):
            yield path


def broken_links(path, anchors):
    """(line from 1, link, why) of each link of a page that leads nowhere."""
    for number, (line, is_text) in enumerate(outside_code(path.read_text(encoding="utf-8").split("\n")), 1):
        if not is_text:
            continue
        for target in LINK.findall(INLINE_CODE.sub("", line)):
            if ELSEWHERE.match(target):
                continue
            file, _, anchor = target.partition("#")
            to = (path.parent / file).resolve() if file else path.resolve()
            if not to.exists():
                yield number, target, "no such file"
            elif anchor and to.suffix == ".md" and anchor not in anchors(to):
                yield number, target, "no such heading there"


def not_in_index(root):
    """The pages beside docs/README.md that it does not link."""
    index = root / "docs/README.md"
    if not index.exists():
        return
    linked = {target.partition("#")[0] for target in LINK.findall(index.read_text(encoding="utf-8"))}
    for page in sorted(index.parent.glob("*.md")):
        if page != index and page.name not in linked:
            yield page.name


def check(root):
    """The complaints about all pages below a directory, and how many pages there are."""
    known = {}

    def anchors(path):
        if path not in known:
            known[path] = set(heading_anchors(path.read_text(encoding="utf-8").split("\n")).values())
        return known[path]

    complaints = []
    count = 0
    for path in pages(root):
        count += 1
        complaints += [f"{path.relative_to(root)}:{line}: {target}: {why}"
                       for line, target, why in broken_links(path, anchors)]
    complaints += [f"docs/README.md: {name} is not linked there" for name in not_in_index(root)]
    return complaints, count


def main():
    complaints, count = check(pathlib.Path(sys.argv[1]).resolve())
    for complaint in complaints:
        print(complaint)
    if count == 0:
        sys.exit("links: no pages there")
    print(f"links: {count} pages, {len(complaints)} broken links")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
