"""Training: objectives, schedules, the loop, and runs from a config to a model."""
