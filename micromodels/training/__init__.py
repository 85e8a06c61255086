"""Training a head on the features of augmented seeds, and choosing among experiments."""
