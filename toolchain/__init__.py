"""What joins the three libraries: the commands, what they print, verification across steps, the demo."""
