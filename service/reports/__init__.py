"""Reports over labels: agreement, quality, the audit report, archives."""
