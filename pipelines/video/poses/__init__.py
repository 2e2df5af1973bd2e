"""Poses of whole videos: `lposekit pose`."""
