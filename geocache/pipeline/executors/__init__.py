"""Ways to run the units of a build: one file each, registered by module name."""
