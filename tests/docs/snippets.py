#!/usr/bin/env python3
"""Fails where an example in a page, or in libfaultline(3), does not compile. The blocks of a page are one program, in their order: what one
declares, the next may use. A line of nothing but ... stands for what is left out, and so does what BEFORE has for a page.

Usage: snippets.py SOURCE_DIRECTORY C_COMPILER CXX_COMPILER
"""
import pathlib
import re
import subprocess
import sys

BLOCK = re.compile(r"^```(cpp|c)\n(.*?)^```", re.M | re.S)
OMITTED = re.compile(r"^(\s*)\.\.\.", re.M)

HEADS = {
    "c": """#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include "faultline/faultline.h"
#include "faultline/pin.h"
""",
    "cpp": """#include <liburing.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <mutex>
#include "faultline/faultline.hpp"
using namespace std::chrono_literals;
""",
}
# What a page's reader has already.
BEFORE = {
    ("api.md", "c"): "void *chosen; void *shared; struct io_uring ring;",
    ("api.md", "cpp"): "faultline::mapping mapping;",
    ("pins.md", "c"): "void *address; size_t length;",
    ("pins.md", "cpp"): "faultline::mapping mapped; io_uring ring;",
    ("sync.md", "cpp"): "faultline::object object; auto repair = [](auto&) {};",
}


def programs(page):
    """(language, text) for each language that the page has blocks of."""
    if page.suffix == ".3":
        for text in re.findall(r"^\.Bd -literal.*?\n(#include.*?)^\.Ed", page.read_text(encoding="utf-8"), re.M | re.S):
            yield "c", text.replace("\\e", "\\")
        return
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    for language in ("c", "cpp"):
        texts = [OMITTED.sub(r"\1;", text) for of, text in blocks if of == language]
        whole = [text for text in texts if re.search(r"^int main\(", text, re.M)]
        parts = [text for text in texts if text not in whole]
        for text in whole:
            yield language, HEADS[language] + text
        if parts:
            yield language, (HEADS[language] + "void reader(void);\nvoid reader(void) {\n" +
                             BEFORE.get((page.name, language), "") + "\n" + "\n".join(parts) + "}\n")


def main():
    source = pathlib.Path(sys.argv[1]).resolve()
    compilers = {"c": [sys.argv[2], "-std=c11", "-xc"], "cpp": [sys.argv[3], "-std=c++20", "-xc++"]}
    count = 0
    bad = 0
    for page in [source / "README.md", *sorted((source / "docs").glob("*.md")),
                 source / "docs/man/libfaultline.3"]:
        for language, text in programs(page):
            count += 1
            done = subprocess.run(
                compilers[language] + ["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused", "-Wno-switch",
                                       "-Wno-uninitialized", "-Wno-maybe-uninitialized",
                                       f"-I{source / 'include'}", "-"],
                input=text, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                bad += 1
                print(f"{page.relative_to(source)}, {language}:\n{done.stderr}")
    if count == 0:
        sys.exit("snippets: there are none")
    print(f"snippets: {count} programs, {bad} do not compile")
    sys.exit(1 if bad else 0)


main()
