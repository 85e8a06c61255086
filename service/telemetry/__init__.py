"""Logs, metrics and traces. None of them holds patient data."""
