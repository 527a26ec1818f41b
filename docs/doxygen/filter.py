#!/usr/bin/env python3
"""Hands Doxygen the public headers and docs/*.md as it wants them; both stay plain in the source.

Headers: the comment right before a declaration, the one behind a member, and the first of the file become
Doxygen's. Comments inside functions stay comments, and so do those that a blank line follows. What is deleted or
defaulted is left out: the class says who can be copied. Pages: headings and links get the names by which Doxygen
finds them. Must never add or remove a line: warnings name lines.
"""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "docs"))
sys.dont_write_bytecode = True
from markdown import heading_anchors, outside_code  # noqa: E402

NAMES_A_SCOPE = re.compile(r"\b(namespace|class|struct|union|enum|extern)\b")
STRING = re.compile(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])+\'')
LEFT_OUT = re.compile(r"= (delete|default);\s*$")
GOES_ON = re.compile(r"\\$")


class Braces:
    """Follows code, to tell where declarations stand from the inside of functions and initializers."""

    def __init__(self):
        self.open = []  # "scope", "enum" or "body", the innermost last
        self.parentheses = 0
        self.statement = ""  # what was read since the last declaration ended

    def declares(self):
        """Whether a declaration may begin here."""
        return "body" not in self.open and self.parentheses == 0 and not self.statement.strip()

    def in_scope(self):
        return "body" not in self.open

    def read(self, code):
        for character in code:
            if character == "{":
                scope = NAMES_A_SCOPE.search(self.statement) and "(" not in self.statement
                kind = "enum" if re.search(r"\benum\b", self.statement) else "scope"
                self.open.append(kind if scope else "body")
                self.statement = ""
            elif character == "}":
                self.open.pop()
                self.statement = ""
            elif character == ";" and self.parentheses == 0:
                self.statement = ""
            elif character == "," and self.open[-1:] == ["enum"]:
                self.statement = ""
            elif character == ":" and self.statement.strip() in ("public", "protected", "private"):
                self.statement = ""
            else:
                self.parentheses += {"(": 1, ")": -1}.get(character, 0)
                self.statement += character
        self.statement += " "


def split_comment(line):
    """The code of a line, and the column where a comment begins behind it, or None."""
    bare = STRING.sub(lambda found: "_" * len(found.group()), line)
    begins = [at for at in (bare.find("//"), bare.find("/*")) if at >= 0]
    return (bare[: min(begins)], min(begins)) if begins else (bare, None)


def as_docs(line, at, behind=""):
    """The comment at this column, opened as Doxygen wants it."""
    opening = "/**" if line.startswith("/*", at) else "///"
    return line[:at] + opening + behind + line[at + 2 :]


def header(lines):
    out = list(lines)
    braces = Braces()
    first = True
    continues_at = None  # the column of a // comment behind code, which the next line may go on with
    directive = False  # a preprocessor directive that goes on
    i = 0
    while i < len(lines):
        line = lines[i]
        stripped = line.strip()
        at = len(line) - len(line.lstrip())
        if stripped.startswith(("//", "/*")):
            end = i
            if stripped.startswith("/*"):
                while "*/" not in lines[end]:
                    end += 1
            elif at == continues_at:
                out[i] = as_docs(line, at, "<")
                i += 1
                continue
            else:
                while end + 1 < len(lines) and lines[end + 1].strip().startswith("//"):
                    end += 1
            follows = lines[end + 1].strip() if end + 1 < len(lines) else ""
            if first or (braces.declares() and follows and not follows.startswith("}")):
                for j in range(i, end + 1):
                    if lines[j].strip().startswith("//") or j == i:
                        out[j] = as_docs(lines[j], len(lines[j]) - len(lines[j].lstrip()))
                if first:
                    mark = out[end]
                    out[end] = mark.replace("*/", "@file */") if "*/" in mark else mark + " @file"
            first = False
            i = end + 1
            continue
        code, comment = split_comment(line)
        continues_at = None
        if comment is not None and braces.in_scope() and (directive or stripped.startswith("#") or
                                                          code.rstrip().endswith((";", ",")) or
                                                          re.search(r"[\w)]\s*$", code)):
            out[i] = as_docs(line, comment, "<")
            continues_at = comment if line.startswith("//", comment) else None
        if comment is not None and line.startswith("/*", comment):
            while "*/" not in lines[i][comment if lines[i] is line else 0 :]:
                i += 1
        if not directive and not stripped.startswith("#"):
            if LEFT_OUT.search(line) and braces.declares() and not braces.open[-1:] == ["enum"]:
                out[i] = ""
                for j in range(i - 1, -1, -1):  # with what was said of it
                    if not out[j].lstrip().startswith("///"):
                        break
                    out[j] = ""
            braces.read(code)
        directive = (directive or stripped.startswith("#")) and bool(GOES_ON.search(line))
        i += 1
    return out


LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]*)\)")


def page(path, lines):
    """A page's headings get ids, {stem}_{anchor}, and links between pages become references to those."""
    stem = path.stem.lower().replace(".", "_")
    docs = path.parent

    def link(found):
        text, target = found.groups()
        if re.match(r"[a-z]+:", target):
            return found.group()
        file, _, anchor = target.partition("#")
        to = (docs / file).resolve() if file else path
        if to.suffix != ".md" or to.parent != docs.resolve():
            return text  # in the sources, not in the reference
        name = to.stem.lower() if to.stem != "README" or anchor else "mainpage"
        return f'[{text}](@ref {name}{"_" + anchor if anchor else ""})'

    names = heading_anchors(lines)
    out = []
    for number, (line, is_text) in enumerate(outside_code(lines)):
        if number in names:
            heading = LINK.sub(link, line)
            name = stem if line.startswith("# ") else f"{stem}_{names[number]}"
            line = f"{heading} {{#{'mainpage' if name == 'readme' else name}}}"
        elif is_text:
            line = LINK.sub(link, line)
        out.append(line)
    return out


def main():
    path = pathlib.Path(sys.argv[1]).resolve()
    lines = path.read_text(encoding="utf-8").split("\n")
    out = page(path, lines) if path.suffix == ".md" else header(lines)
    assert len(out) == len(lines), path
    sys.stdout.write("\n".join(out))


if __name__ == "__main__":
    main()
