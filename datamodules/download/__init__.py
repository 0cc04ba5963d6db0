"""Downloads: which files, fetched, checked and unpacked."""
