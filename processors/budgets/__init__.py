"""Budgets: money is reserved before a call and settled after it, so that parallel workers can't overspend."""
