"""Training: recipes, methods of the paper, and the loop that runs them."""
