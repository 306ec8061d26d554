"""Latent action model: what was done between these two frames?"""
