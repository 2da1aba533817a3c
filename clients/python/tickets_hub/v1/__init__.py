"""The messages and services of the contract. Made by ``make proto``."""
