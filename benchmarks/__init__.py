"""What claude_pm costs and what its modes cost; ``python -m benchmarks`` runs all."""
