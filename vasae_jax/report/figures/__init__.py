"""The figures of a report: as PNG and SVG, with their data as CSV."""
