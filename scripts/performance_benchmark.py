"""Measure this machine against the performance guide: the same as ``claude-pm bench``.

python scripts/performance_benchmark.py [--json]
"""

from __future__ import annotations

import sys

from claude_pm.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    main()
