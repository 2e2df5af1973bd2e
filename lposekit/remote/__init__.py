"""Datasets that lie in an object store: read through fsspec, by ranges, with a cache of blocks on the local disk."""
