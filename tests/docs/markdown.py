"""What tests and the Doxygen filter need of Markdown: which lines are text, and the anchors of headings as
GitHub makes them. Knows what this project's pages use, and no more."""
import re

FENCE = re.compile(r"^\s*(```|~~~)")
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
INLINE_CODE = re.compile(r"`[^`]*`")


def outside_code(lines):
    """(line, whether it is text and not code) for each line. Code is fenced, or indented after a blank line."""
    fence = None
    indented = False
    previous_blank = True
    for line in lines:
        mark = FENCE.match(line)
        if fence:
            yield line, False
            if mark and mark.group(1) == fence:
                fence = None
        elif mark:
            fence = mark.group(1)
            yield line, False
        else:
            is_indented = line.startswith("    ")
            indented = is_indented and (indented or previous_blank)
            yield line, not indented
        previous_blank = not line.strip()


def slug(heading):
    """GitHub's anchor of a heading's text."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = text.replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def heading_anchors(lines):
    """{line number from 0: anchor} of all headings; the second of a name gets -1, and so on."""
    seen = {}
    found = {}
    for number, (line, is_text) in enumerate(outside_code(lines)):
        match = HEADING.match(line) if is_text else None
        if not match:
            continue
        name = slug(match.group(2))
        count = seen.get(name, 0)
        seen[name] = count + 1
        found[number] = f"{name}-{count}" if count else name
    return found
