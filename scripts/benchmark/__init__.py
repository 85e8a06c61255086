"""How good the labels are: real sets with ground truth, metrics, baselines, and the protocols that bring them together.

Nothing on the labeling path imports this package; ``scripts/bench`` does.
"""
