"""Search spaces, sweeps with W&B, and searches without a server."""
