"""Synthetic creatures: classes, attributes, parts and pictures of them."""
