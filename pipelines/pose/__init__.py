"""The pose models of a build: a pool of processes that the workers of every kind share."""
