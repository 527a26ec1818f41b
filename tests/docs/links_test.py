#!/usr/bin/env python3
"""That links.py finds what it is for, and nothing else."""
import pathlib
import tempfile
import unittest

import links
import markdown


class Links(unittest.TestCase):
    def complaints(self, **pages):
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            for name, text in pages.items():
                (root / f"{name}.md").write_text(text, encoding="utf-8")
            return links.check(root)[0]

    def test_a_file_that_is_not_there(self):
        self.assertEqual(self.complaints(a="one\n[b](b.md)\n"), ["a.md:2: b.md: no such file"])

    def test_a_heading_that_is_not_there(self):
        self.assertEqual(self.complaints(a="[b](b.md#two)", b="# One"), ["a.md:1: b.md#two: no such heading there"])
        self.assertEqual(self.complaints(a="[a](#two)\n# One"), ["a.md:1: #two: no such heading there"])

    def test_what_is_there(self):
        self.assertEqual(self.complaints(a="[b](b.md#a-fault-of-fl_map)", b="## A fault, of `fl_map`"), [])
        self.assertEqual(self.complaints(a="[b](b.md#one-1) [x](https://x.invalid/)", b="# One\n# One"), [])

    def test_code_has_no_links_and_no_headings(self):
        self.assertEqual(self.complaints(a="```\n[b](b.md)\n```\n\n    [c](c.md)\n\n`[d](d.md)`\n"), [])
        self.assertEqual(self.complaints(a="[a](#one)\n```\n# One\n```\n"), ["a.md:1: #one: no such heading there"])

    def test_a_page_that_is_not_in_the_index(self):
        with tempfile.TemporaryDirectory() as directory:
            docs = pathlib.Path(directory, "docs")
            docs.mkdir()
            (docs / "README.md").write_text("[a](a.md#x)\n", encoding="utf-8")
            (docs / "a.md").write_text("# X\n", encoding="utf-8")
            (docs / "b.md").write_text("# Y\n", encoding="utf-8")
            self.assertEqual(links.check(pathlib.Path(directory))[0], ["docs/README.md: b.md is not linked there"])

    def test_anchors_are_githubs(self):
        self.assertEqual(markdown.slug("watch: a line an event"), "watch-a-line-an-event")
        self.assertEqual(markdown.slug("--check"), "--check")
        self.assertEqual(markdown.slug("Locks: `faultline/sync.hpp`"), "locks-faultlinesynchpp")


unittest.main()
