#!/usr/bin/env python3
"""Says whether JSON on standard input is what docs/faultctl.schema.json has.

Usage: validate_json.py SCHEMA DEFINITION [--lines]

DEFINITION is one of the schema's $defs. Fields that the schema does not name are allowed by it, so
that some can be added; here they are errors, so that none is forgotten there. --lines: a document
a line, and at least one.
"""

import json
import sys

import jsonschema


def closed(node):
    """The schema with every object closed to fields that it does not name."""
    if isinstance(node, dict):
        node = {key: closed(value) for key, value in node.items()}
        if "properties" in node:
            node["additionalProperties"] = False
    elif isinstance(node, list):
        node = [closed(value) for value in node]
    return node


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        schema = json.load(file)
    jsonschema.Draft202012Validator.check_schema(schema)
    definition = sys.argv[2]
    one = {"$defs": schema["$defs"], **schema["$defs"][definition]}
    strict = jsonschema.Draft202012Validator(closed(one))
    whole = jsonschema.Draft202012Validator(schema)
    text = sys.stdin.read()
    documents = text.splitlines() if "--lines" in sys.argv else [text]
    if not documents:
        sys.exit("nothing was printed")
    for document in documents:
        value = json.loads(document)
        for validator in (strict, whole):
            errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
            if errors:
                sys.exit(f"{definition}: " + "; ".join(errors))


if __name__ == "__main__":
    main()
