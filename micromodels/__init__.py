"""Micro-models: a few hand labels in, a fully labeled video out.

Importing this package imports nothing heavy, so that the light client (``micromodels.client``) works without torch.
The way of the data: ``types`` -> ``video`` -> ``encoder`` -> ``seeds`` -> ``heads`` -> ``training`` -> ``propagation``
-> ``tracking`` -> ``labeling``; ``evaluation`` measures it.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
