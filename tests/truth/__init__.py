"""Ground truth: workloads whose true split of time and memory is known, and how far off we are."""
