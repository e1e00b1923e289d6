"""Reports for people: the page of a run's features, its figures, and heatmaps."""
