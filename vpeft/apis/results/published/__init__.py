"""What have others published?"""
