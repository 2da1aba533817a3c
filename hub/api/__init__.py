"""All that knows gRPC: who may come in, how failures leave, and one module for each service."""
