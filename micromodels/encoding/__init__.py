"""Frozen encoders, and the features of a video, computed once per frame and kept on disk."""
