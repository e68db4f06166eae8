"""What the benchmarks share: measuring, and what makes the page of all of them."""
