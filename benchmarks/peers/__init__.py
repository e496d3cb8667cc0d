"""How the profilers that claude_pm is compared with are started, and what they found is read."""
