"""Pictures, overlay videos and reports of a run."""
