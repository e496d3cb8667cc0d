"""Run all benchmarks, or those named: ``python -m benchmarks [road] [orchestration] ...``.

Each figure is one JSON line. Absolute times belong to the machine: read the ratios, which are of
cases that took turns in one run. ``profilers`` and ``attribution``, named first, print a table
instead and take options: ``python -m benchmarks profilers --help``.
"""

from __future__ import annotations

import json
import sys

from benchmarks import (
    attribution,
    cost,
    http,
    import_time,
    orchestration,
    prefix,
    profilers,
    road,
    sampled_programs,
    spans,
    what_if,
)

BENCHMARKS = {
    "import_time": import_time.run,
    "spans": spans.run,
    "orchestration": orchestration.run,
    "http": http.run,
    "road": road.run,
    "prefix": prefix.run,
    "what_if": what_if.run,
    "profilers": profilers.run,
    "attribution": attribution.run,
    "cost": cost.run,
    "sampled_programs": sampled_programs.run,
}
TABLES = {"profilers": profilers.main, "attribution": attribution.main}


def main() -> int:
    """Run the benchmarks named on the command line, or all."""
    if len(sys.argv) > 1 and sys.argv[1] in TABLES:
        return TABLES[sys.argv[1]](sys.argv[2:])
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(
            f"There is no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}.",
            file=sys.stderr,
        )
        return 2
    for name in names:
        for figure in BENCHMARKS[name]():
            print(json.dumps({"benchmark": name, **figure}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
