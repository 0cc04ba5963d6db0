"""A page and a JSON API that search an archive."""
