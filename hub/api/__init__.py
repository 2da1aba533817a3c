"""Everything that knows gRPC: access, statuses, limits, and one module for each service."""
