"""Robot datasets, embodiments and alignment: which of my robot's controls do that?"""
