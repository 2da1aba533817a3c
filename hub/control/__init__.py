"""Who may do what: keys, the lifecycle of an integration, and the state derived from the log's entries."""
