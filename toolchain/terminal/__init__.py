"""What a terminal shows: progress bars, columns, colors."""
