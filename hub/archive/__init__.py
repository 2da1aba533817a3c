"""A store as a file: backup, restore, export and import. Nothing that serves calls imports this package."""
