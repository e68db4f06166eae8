"""What has changed inside?"""
