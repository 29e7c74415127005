"""Where the demo model's texts and the golden vectors come from. Not installed: they are used in the source tree."""
