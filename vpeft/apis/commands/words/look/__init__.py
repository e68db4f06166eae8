"""See what there is, and what a run has learnt."""
