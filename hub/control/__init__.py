"""Who may do what: keys, the life of an integration, and the state derived from the log's entries."""
