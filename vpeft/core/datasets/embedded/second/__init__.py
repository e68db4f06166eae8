"""Which embedded tasks are decided by no sum, no place and no difference? The second version, beside the first."""
