"""Running long work: events, stopping, threads."""
