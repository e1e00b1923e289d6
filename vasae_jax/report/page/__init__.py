"""The report: a folder with index.html and its data, which opens from a disk without a server."""
