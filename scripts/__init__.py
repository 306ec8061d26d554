"""The command line and everything a person runs. Imports anything; nothing imports it."""
