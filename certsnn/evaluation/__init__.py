"""Clean, attack and verified error of a network over a data set."""

from certsnn.evaluation.evaluation import evaluate

__all__ = ["evaluate"]
