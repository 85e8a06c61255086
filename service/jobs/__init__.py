"""Jobs: submitting them, and the runner that has them done in worker processes."""
