"""Provably robust spiking neural networks: train them, prove their robustness, attack them."""

__version__ = "0.1.0"
