"""What is a method? The contract that every method keeps and hosts and runs rely on."""
