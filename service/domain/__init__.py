"""The words of the service as types: videos, labels, jobs, models, access, errors. No storage, no transport."""
