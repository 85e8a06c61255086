"""Results of a run: overlay pictures and videos, flip books, reports."""
