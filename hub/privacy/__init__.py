"""Erasures, disclosures, and what the hub keeps about a subject."""
