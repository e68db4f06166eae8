"""Which tiny backbones are of mmpretrain?"""
