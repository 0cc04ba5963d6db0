"""Data sets for zero-shot hashing: one module of facts a data set, on one base class.

Nothing is re-exported: a configuration names a data set by its dotted path, like `razh.datamodules.cub.CUBDataModule`.
"""
