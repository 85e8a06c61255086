"""Migrations of the tables, oldest first in `versions`."""
