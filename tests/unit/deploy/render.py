"""Lint and render the chart with Helm's own library; a program of its own, so that its Go runtime stays out of pytest.

Reads a list of value sets as JSON, prints for each the manifests or the error.
"""

import json
import sys

import helm_python


def main():
    chart_dir, asked = sys.argv[1], json.load(sys.stdin)
    answers = []
    with helm_python.Chart.load(chart_dir) as chart:
        for values in asked:
            try:
                chart.validate_schema(values)
                answers.append({"files": chart.render(values, name="demo", namespace="prod")})
            except helm_python.HelmError as error:
                answers.append({"error": str(error)})
    json.dump({"answers": answers, "lint": helm_python.lint(chart_dir, strict=True)}, sys.stdout)


main()
