"""Training midnet: rendered scenes, real clips, losses, the loop."""
