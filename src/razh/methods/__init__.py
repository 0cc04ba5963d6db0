"""Hashing methods: one file a method, found by its dotted path."""
