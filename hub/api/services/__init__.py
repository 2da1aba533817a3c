"""One module for each service of the contract, and helpers that several of them share."""
