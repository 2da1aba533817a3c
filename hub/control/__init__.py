"""Who may what: keys, the life of an integration, and the state that the log's entries amount to."""
