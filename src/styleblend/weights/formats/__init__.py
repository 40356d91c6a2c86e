"""Readers of the file formats in which other projects publish their networks."""
