"""The Tickets integration hub: see ARCHITECTURE.md for its packages, and which may import which."""
