"""An HTTP server: one model, many conversations, an API that tools know, and a page for people."""
