"""Looking at anything: identify, doctor, tokens and texts side by side."""
