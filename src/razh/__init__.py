"""Zero-shot hashing with part-attribute alignment."""

__version__ = "0.1.0"
