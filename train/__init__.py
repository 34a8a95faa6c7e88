"""Training: objectives, schedules, the loop, and runs from a config to a model."""

from certsnn.train.own_loop import certified_loss as certified_loss
