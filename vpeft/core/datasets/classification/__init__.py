"""Image classification: suites of lists and folders."""
