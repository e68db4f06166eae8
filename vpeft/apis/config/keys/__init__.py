"""Which keys of a config something reads, and what becomes of another one."""
