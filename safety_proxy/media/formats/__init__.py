"""What is special to each type of file: a reader of it, and what only that reader needs."""
