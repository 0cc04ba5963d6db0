"""Retrieval with binary codes: packing, Hamming histograms and ranking, exact metrics, evaluation. No Lightning."""
