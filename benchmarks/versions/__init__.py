"""What a version costs: its bytes, the training it delays, and the time until servers have it."""
