"""midframe: smoother video at any rate, with nothing of the film lost on the way."""
