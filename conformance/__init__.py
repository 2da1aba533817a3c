"""What every client of the hub must do, as data, and the program that plays it to a client: ``python -m conformance``.

README.md describes the scripts and the line protocol that a client under test speaks.
"""
