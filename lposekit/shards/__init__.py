"""The dataset folder: shards, their index, the card, and how they are checked."""
