"""Pages for people: one HTML file each, with everything in it, readable without a network or a server."""
