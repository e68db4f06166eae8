"""What lies below the first trained tensor is computed once: what is kept, who reads it, what is spared."""
