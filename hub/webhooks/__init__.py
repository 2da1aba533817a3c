"""Delivery by HTTP: what an integration may see, as signed requests to its URL."""
