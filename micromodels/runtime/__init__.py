"""How work runs: events, stopping, threads."""
