"""Trained networks as files, and their cards."""

from certsnn.models.own import save
from certsnn.models.pretrained import MODEL, Model, build_network, load_model, locate, pretrained, save_model

__all__ = ["MODEL", "Model", "build_network", "load_model", "locate", "pretrained", "save", "save_model"]
