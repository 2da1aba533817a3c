"""The embedded log: one SQLite file in a data directory that one process holds."""
