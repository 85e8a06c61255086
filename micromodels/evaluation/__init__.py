"""How good the labels are: real sets with ground truth, metrics, peers, and the protocols that bring them together.

Nothing on the labelling path imports this package; ``scripts/bench`` does.
"""
