"""A small world of stick figures, in which both stages can be seen to learn within an hour on a laptop."""
