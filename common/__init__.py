"""What every stage stands on: config, training loop, checkpoints, video files, frame pairs, metrics."""
