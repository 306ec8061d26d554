"""Action-conditioned video generator: what will be seen if this is done?"""
