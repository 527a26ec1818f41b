"""Reads metrics from a file as strictly as the reference reader of OpenMetrics does, and writes what it
understood as JSON: a list of families with their name, type, unit and labels.

Usage: openmetrics.py FILE
"""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families


def labels_of(family):
    names = {name for sample in family.samples for name in sample.labels}
    return sorted(names - {"le"})


def main():
    with open(sys.argv[1], encoding="utf-8", newline="") as file:
        families = list(text_string_to_metric_families(file.read()))
    json.dump(
        [
            {
                "name": family.name,
                "type": family.type,
                "unit": family.unit,
                "help": family.documentation,
                "labels": labels_of(family),
                "samples": sorted({sample.name for sample in family.samples}),
            }
            for family in families
        ],
        sys.stdout,
    )


main()
