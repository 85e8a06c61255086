"""Label sessions: worker processes that compute corrections, and the pool of them."""
