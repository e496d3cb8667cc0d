"""The terminal face: the ``claude-pm`` command."""
