"""Datasets in the layouts that other trainers and tools read."""
