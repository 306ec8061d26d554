"""Live use of a trained model: sessions that one controls while they run."""
