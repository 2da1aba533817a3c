"""What reaches whom: cursors, views, frames, the feed that follows the log, and the live streams."""
