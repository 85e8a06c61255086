"""Database migrations; `versions` has them oldest first."""
