"""Parts: encoders, fusion, pyramids, losses. Plain torch; knows no Lightning, no data set and no task."""
