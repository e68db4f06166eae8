"""What is in a user's own folder, and how is it divided?"""
