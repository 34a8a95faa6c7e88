"""Trained networks as files, and their cards."""

from certsnn.models.pretrained import MODEL, Model, build_network, load_model, locate, pretrained, save_model

__all__ = ["MODEL", "Model", "build_network", "load_model", "locate", "pretrained", "save_model"]
