"""Benchmark of label quality: real data sets with ground truth, metrics, baselines, and protocols.

The labeling code never imports this package; ``scripts/bench`` does.
"""
