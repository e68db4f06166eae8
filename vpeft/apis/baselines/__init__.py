"""What is reached without a pretrained host: how much of a task can be had by looking at pixels alone?"""
