"""``python -m claude_pm``: the ``claude-pm`` command, for where it is not on PATH."""

from claude_pm.cli.app import main

if __name__ == "__main__":
    main()
