"""Trained networks as files, and what is known about them."""

from certsnn.models.pretrained import MODEL, Model, build_network, load_model, locate, pretrained, save_model

__all__ = ["MODEL", "Model", "build_network", "load_model", "locate", "pretrained", "save_model"]
