"""Interval bounds (S-IBP): forward through layers, in the step and in the count domain."""
