"""Trackers: a box in one frame in, boxes with scores in all frames out."""
