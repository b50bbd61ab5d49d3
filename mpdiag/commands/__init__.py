"""Commands of the door, one file a group: each a few lines over a function elsewhere."""
