"""Terms of a loss as objects: each says what it needs and how it is computed, a method says what it weighs."""
