"""Backbones: images to patches, patches to features."""
