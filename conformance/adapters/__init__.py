"""The two Python clients as clients under test."""
