"""From files to batches: videos, features, annotations, text."""
