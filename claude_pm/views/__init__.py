"""What is seen: charts, summaries and the report, drawn from a Profile and nothing else."""
