"""Budgets of time: the replays, the table, the search, and the measured result."""
