#!/usr/bin/env python3
"""Fails where the man pages and the programs do not know the same: options, commands, settings, functions.

Asks the programs themselves: their --help, what the daemon says of its settings when it starts, and what it says to
a settings file. Of the library: the version script, and the declarations in the headers.

Usage: complete.py SOURCE_DIRECTORY FAULTLINED FAULTCTL
"""
import pathlib
import re
import subprocess
import sys
import tempfile

OPTION = re.compile(r"--[a-z][a-z-]*")
complaints = []


def compare(what, program, page, may_be_none=False):
    """Complains of what only one of the two sets has."""
    for name in sorted(program - page):
        complaints.append(f"{what}: {name} is not in the page")
    for name in sorted(page - program):
        complaints.append(f"{what}: {name} is in the page, and unknown to the program")
    if not program and not may_be_none:
        complaints.append(f"{what}: the program has none, which cannot be")


def run(*command):
    """Everything a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout + done.stderr


def options_of_help(text):
    """The options of a --help: the lines below "Options:", and not what the rest of the text mentions."""
    found = set()
    for line in text.split("\n"):
        if re.match(r"\s{2,4}-", line):
            found |= set(OPTION.findall(re.split(r"\s{2,}|\s(?=[A-Z])", line.strip())[0]))
    return found


def flags(mdoc):
    """The long options that a piece of a page explains: those of its .It lines."""
    found = set()
    for line in mdoc.split("\n"):
        if line.startswith(".It Fl"):
            found |= {"-" + word for word in re.findall(r"-[a-z][a-z-]*", line) if len(word) > 2}
    return found


def mentioned(mdoc):
    """All long options that a piece of a page mentions."""
    return {"--" + name for name in re.findall(r"Fl -([a-z][a-z-]*)", mdoc)} | set(OPTION.findall(mdoc))


def section(page, name):
    """A page's text from .Sh NAME to the next section."""
    return re.search(rf"^\.Sh {name}\n(.*?)(?=^\.Sh |\Z)", page, re.M | re.S).group(1)


def check_daemon(page, binary):
    program = options_of_help(run(binary, "--help"))
    compare("faultlined(8)", program, flags(section(page, "OPTIONS")))
    for name in sorted(mentioned(page) - program):
        complaints.append(f"faultlined(8): {name} is mentioned, and unknown to the program")


def check_settings(page, binary):
    documented = set(re.findall(r"^\.It Cm ([a-z_]+)", page, re.M))
    with tempfile.TemporaryDirectory() as directory:
        # It says all its settings before it finds that it cannot listen: nothing is left running.
        taken = pathlib.Path(directory, "taken")
        taken.touch()
        empty = pathlib.Path(directory, "empty.toml")
        empty.touch()
        told = run(binary, "--config", empty, "--socket", taken, "--log-level", "info")
        compare("faultline.toml(5)", set(re.findall(r"setting ([a-z_]+) =", told)), documented)

        def unknown(key):
            # Of a type that no key takes: what is known is refused for its type.
            file = pathlib.Path(directory, f"{key}.toml")
            file.write_text(f"{key} = 1979-05-27\n", encoding="utf-8")
            return "unknown key" in run(binary, "--config", file, "--socket", taken)

        for key in sorted(documented):
            if unknown(key):
                complaints.append(f"faultline.toml(5): {key} is in the page, and unknown to the daemon")
        if not unknown("no_such_key"):
            complaints.append("faultline.toml(5): the daemon takes a key that nobody knows")


def check_ctl(page, binary):
    help_text = run(binary, "--help")
    commands = set()
    below = False
    for line in help_text.split("\n"):
        if line.startswith("Subcommands:"):
            below = True
        elif below and (match := re.match(r"  ([a-z]+)\b", line)):
            commands.add(match.group(1))
        elif below and not line.startswith("  "):
            below = False
    items = re.split(r"^\.It Cm ", section(page, "COMMANDS"), flags=re.M)[1:]
    described = {item.split()[0]: item for item in items}
    compare("faultctl(1): commands", commands, set(described))
    common = flags(section(page, "DESCRIPTION"))
    compare("faultctl(1)", options_of_help(help_text), common)
    for command in sorted(commands & set(described)):
        own = options_of_help(run(binary, command, "--help"))
        compare(f"faultctl(1): {command}", own - common, flags(described[command]), may_be_none=True)


def check_library(page, source):
    exported = set(re.findall(r"^\s+(fl_\w+);", (source / "libclient/faultline.map").read_text(), re.M))
    compare("libfaultline(3)", exported, set(re.findall(r"^\.It (?:Fn|Va) (\w+)", page, re.M)))
    headers = "\n".join(path.read_text() for path in sorted((source / "include/faultline").glob("*.h")))
    headers = re.sub(r"/\*.*?\*/", "", headers, flags=re.S)
    plain = re.compile(r"\s*([*,])\s*|\s+")

    def tidy(text):
        return plain.sub(lambda found: found.group(1) or " ", text).strip()

    declared = {name: tidy(arguments)
                for name, arguments in re.findall(r"\b(fl_\w+)\(([^)]*)\);", headers)}
    for name, arguments in re.findall(r"^\.It Fn (\w+) (.*)$", page, re.M):
        quoted = re.findall(r'"([^"]*)"', arguments) or [arguments]
        if declared.get(name) != tidy(",".join(quoted)):
            complaints.append(f"libfaultline(3): {name}({','.join(quoted)}), and in the header "
                              f"({declared.get(name)})")
    for name in sorted(set(re.findall(r"\b(?:fl|FL)_\w+", page))):
        if not re.search(rf"\b{name}\b", headers):
            complaints.append(f"libfaultline(3): {name} is in no header")


def main():
    source, daemon, ctl = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])

    def page(name):
        return (source / "docs/man" / name).read_text(encoding="utf-8")

    check_daemon(page("faultlined.8"), daemon)
    check_settings(page("faultline.toml.5"), daemon)
    check_ctl(page("faultctl.1"), ctl)
    check_library(page("libfaultline.3"), source)
    for complaint in complaints:
        print(complaint)
    print(f"complete: {len(complaints)} complaints")
    sys.exit(1 if complaints else 0)


main()
