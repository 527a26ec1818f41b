#!/usr/bin/env python3
"""That docs/doxygen/filter.py makes Doxygen's comments of those that are about what is declared, and of no others."""
import pathlib
import sys
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "docs/doxygen"))
import filter as doxygen_filter  # noqa: E402


class Headers(unittest.TestCase):
    def filtered(self, text):
        # The first comment is the file's.
        return "\n".join(doxygen_filter.header(("// File.\n\n" + text).split("\n"))[2:])

    def test_the_first_comment_is_the_files(self):
        self.assertEqual(doxygen_filter.header(["// One.", "// Two.", "", "int x;"])[:2], ["/// One.", "/// Two. @file"])
        self.assertEqual(doxygen_filter.header(["/* One.", " */", "int x;"])[:2], ["/** One.", " @file */"])

    def test_before_a_declaration(self):
        self.assertEqual(self.filtered("// Adds.\n// Twice.\nint add();"), "/// Adds.\n/// Twice.\nint add();")
        self.assertEqual(self.filtered("/* Adds. */\nint add();"), "/** Adds. */\nint add();")
        self.assertEqual(self.filtered("class a {\n public:\n  // Adds.\n  int add();\n};"),
                         "class a {\n public:\n  /// Adds.\n  int add();\n};")

    def test_behind_a_member(self):
        self.assertEqual(self.filtered("struct a {\n  int b;  // Bytes,\n          // or more.\n  int c;\n};"),
                         "struct a {\n  int b;  ///< Bytes,\n          ///< or more.\n  int c;\n};")
        self.assertEqual(self.filtered("enum class a {\n  b,  // One.\n  c  // Two.\n};"),
                         "enum class a {\n  b,  ///< One.\n  c  ///< Two.\n};")
        self.assertEqual(self.filtered("#define A 1 /* One. */"), "#define A 1 /**< One. */")

    def test_not_inside_functions_and_initializers(self):
        for text in ("void a() {\n  // Why.\n  b();  // Here.\n}", "int a(int b,\n      // Why.\n      int c);",
                     "constexpr int a[] = {\n    // Why.\n    1,  // Here.\n};"):
            self.assertEqual(self.filtered(text), text)

    def test_after_a_function_they_are_again(self):
        self.assertEqual(self.filtered("void a() { if (b) { c(); } }\n// Adds.\nint add();"),
                         "void a() { if (b) { c(); } }\n/// Adds.\nint add();")
        self.assertEqual(self.filtered('char a = \'{\';\nconst char* b = "{";\n// Adds.\nint add();'),
                         'char a = \'{\';\nconst char* b = "{";\n/// Adds.\nint add();')

    def test_not_where_a_blank_line_follows(self):
        self.assertEqual(self.filtered("// --- a section\n\nint add();"), "// --- a section\n\nint add();")

    def test_what_is_deleted_or_defaulted_is_left_out(self):
        self.assertEqual(self.filtered("class a {\n  // None.\n  a(const a&) = delete;\n  int b();\n};"),
                         "class a {\n\n\n  int b();\n};")


class Pages(unittest.TestCase):
    def test_links_and_headings(self):
        path = SOURCE / "docs/api.md"
        lines = ["# The library", "", "## Two words", "[a](limits.md) [b](#two-words) [c](limits.md#x) [d](../README.md)",
                 "```", "# [a](limits.md)", "```"]
        self.assertEqual(doxygen_filter.page(path, lines), [
            "# The library {#api}", "", "## Two words {#api_two-words}",
            "[a](@ref limits) [b](@ref api_two-words) [c](@ref limits_x) d", "```", "# [a](limits.md)", "```"])


unittest.main()
