"""The log as a stream of NATS JetStream, for any number of hubs."""
