"""Names of models that mean something to us; apart, since a worker needs them without settings."""

EMBEDDED = "embedded"
"""The value of ``CLAUDE_PM_MODEL`` that means the small model in this process."""
