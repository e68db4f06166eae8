"""Fine-tune a backbone, and use what was trained."""
