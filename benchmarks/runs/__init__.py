"""Many runs, and serving what they made."""
