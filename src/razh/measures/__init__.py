"""How well found parts and attributes agree with annotated ones: measured, never trained on."""
