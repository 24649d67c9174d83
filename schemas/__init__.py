"""What travels: usage events, dead letters, topics. Pure; imports nothing else of the project."""
