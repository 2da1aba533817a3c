"""Delivery: cursors, views, frames, the feed that follows the log, the live streams and their subscriptions."""
