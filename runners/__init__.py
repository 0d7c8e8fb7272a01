"""The composition root: entry points, training loops and the services around them."""
