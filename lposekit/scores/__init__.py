"""What generated images and clips are judged by: formulas on arrays, without torch, files or models."""
