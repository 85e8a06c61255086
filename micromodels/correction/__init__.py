"""A label session: corrections, learning from them, suggestions, retraining."""
