"""What the service tells of itself: logs, metrics and traces. None of it holds patient data."""
