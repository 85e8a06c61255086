"""How micro-models are built: one module per recipe, found in a registry."""
