"""What have runs shown? Files, statistics, tables, plots."""
