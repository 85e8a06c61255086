"""The server around the library: API, store, jobs and command line."""
