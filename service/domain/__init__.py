"""The service's domain types: videos, labels, jobs, models, access, errors. No storage, no transport."""
