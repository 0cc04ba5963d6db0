"""Layers without Lightning: parts, attributes, decoder, hash head."""
