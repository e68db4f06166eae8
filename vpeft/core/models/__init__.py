"""What stands around a backbone? Models from configs, their outputs, heads of our own."""
