"""Callbacks: feature cache, retrieval evaluation, run folder, figures."""
