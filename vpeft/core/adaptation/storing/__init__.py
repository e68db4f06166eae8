"""What is written of an adaptation, and does what is read fit?"""
