"""Meters: each judges one clip after the other, and then sums up what it found."""
