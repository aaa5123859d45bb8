"""What the project's performance claims rest on."""
