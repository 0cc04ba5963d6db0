"""Callbacks: feature cache, retrieval evaluation, run folder; the result, made once, and who writes and shows it."""
