"""Print the attribution error of the sampler on every workload: python -m tests.truth.score [N]."""

from __future__ import annotations

import sys

import claude_pm
from tests.truth.scoring import error, sampled
from tests.truth.workloads import WORKLOADS, Truth


def main() -> None:
    """Score each workload N times."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    for name, workload in WORKLOADS.items():
        if len(sys.argv) > 2 and sys.argv[2] not in name:
            continue
        errors = []
        for _ in range(times):
            truth = Truth()
            with claude_pm.profile(name, cpu="sample", memory=None) as profile:
                workload(truth)
            wall, cpu = sampled(profile, truth)
            errors.append((error(wall, truth.wall_s), error(cpu, truth.cpu_s)))
            if len(sys.argv) > 2:
                print(profile.meta["overhead"])
                for place in truth.wall_s:
                    print(
                        place,
                        [
                            round(x, 4)
                            for x in (
                                truth.wall_s[place],
                                wall[place],
                                truth.cpu_s[place],
                                cpu[place],
                            )
                        ],
                    )
        print(
            f"{name:30s} wall "
            + " ".join(f"{w:6.2%}" for w, _ in errors)
            + "   CPU "
            + " ".join(f"{c:6.2%}" for _, c in errors)
            + f"  {sum(truth.wall_s.values()):.2f} s"
        )


if __name__ == "__main__":
    main()
