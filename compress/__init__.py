"""Trained nets -> smaller nets: budgets, and the techniques that meet them."""
