"""What does the contract ask of a method? One function for each question, which raises where the answer is no."""
