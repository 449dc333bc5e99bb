"""What is run: presets, data, tasks and nets."""
