"""Micro cases, one file for each kind; `suites.micro` loads them."""
