"""The Tickets integration hub: see ARCHITECTURE.md for the rooms and who may import whom."""
