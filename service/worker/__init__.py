"""What runs in a worker process: jobs, label sessions, and the protocol to the server."""
