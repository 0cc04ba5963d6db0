"""Codes of a collection: made from images, searched by them."""
